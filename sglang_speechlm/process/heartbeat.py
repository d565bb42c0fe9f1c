"""Heartbeats: a process counts up in memory shared with its watcher, so that a hang is noticed like a death.

A process that exists may still be stopped, or wait forever. Each process of a server therefore counts up once a second,
and its watcher acts if the count stands still for longer than the process can be busy.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import threading
import time
from multiprocessing import reduction
from typing import Any

INTERVAL_SECONDS = 1.0
LATE_SECONDS = 5.0
"""A process without a beat for this long is not healthy."""
HUNG_SECONDS = 10.0
"""A process without a beat of its thread for this long is killed. The thread beats while torch computes or reads."""
LOOP_HUNG_SECONDS = 20.0
"""A process without a beat of its event loop for this long is killed. Parsing a large body delays the loop."""
START_SECONDS = 600.0
"""The same limit during the start: libraries from a slow disk are loaded under Python's lock."""

_BYTES = 16


class Heartbeat:
    """The count of one process.

    The memory has no file, so a full disk cannot stop it. It is inherited by fork, passed on by multiprocessing's
    spawn, or opened by any other child through its descriptor.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        """Create a count, or open an existing one by its file descriptor."""
        if descriptor is None:
            descriptor = os.memfd_create("heartbeat")
            os.ftruncate(descriptor, _BYTES)
        self.descriptor = descriptor
        self._cell = memoryview(mmap.mmap(descriptor, _BYTES)).cast("Q")
        self._is_by_loop = threading.Event()

    def __reduce__(self) -> Any:
        return _received, (reduction.DupFd(self.descriptor),)

    @property
    def count(self) -> int:
        """Beats so far."""
        return self._cell[0]

    @property
    def is_up(self) -> bool:
        """Whether the process has declared that it is up."""
        return self._cell[1] > 0

    def up(self) -> None:
        """Declare that this process is up."""
        self._cell[1] = 1

    def close(self) -> None:
        """Close the descriptor; the count remains readable."""
        os.close(self.descriptor)

    def beat(self) -> None:
        """Count up once."""
        self._cell[0] += 1

    def beat_by_thread(self) -> None:
        """Let a thread of this process beat from now on."""
        threading.Thread(target=self._beat_on, name="heartbeat", daemon=True).start()

    def beat_by_loop(self) -> None:
        """Let the running event loop beat from now on, instead of the thread: a blocked loop cannot serve requests."""
        self._is_by_loop.set()
        self._beat_in(asyncio.get_running_loop())

    def _beat_on(self) -> None:
        while not self._is_by_loop.is_set():
            self.beat()
            self._is_by_loop.wait(INTERVAL_SECONDS)

    def _beat_in(self, loop: asyncio.AbstractEventLoop) -> None:
        self.beat()
        loop.call_later(INTERVAL_SECONDS, self._beat_in, loop)


def _received(descriptor: Any) -> Heartbeat:
    return Heartbeat(descriptor.detach())


class Silence:
    """How long a heartbeat has been missing, from its watcher's point of view.

    A watcher that was itself stopped, as on a suspended machine, could not observe anything: however long the pause
    between two looks was, it counts as two intervals at most.
    """

    def __init__(self, heartbeat: Heartbeat) -> None:
        """Start to watch."""
        self._heartbeat = heartbeat
        self._count = heartbeat.count
        self._looked = time.monotonic()
        self.seconds = 0.0

    def look(self) -> float:
        """Look again, about once per interval; return the seconds without a beat."""
        now, count = time.monotonic(), self._heartbeat.count
        self.seconds = 0.0 if count != self._count else self.seconds + min(now - self._looked, 2 * INTERVAL_SECONDS)
        self._looked, self._count = now, count
        return self.seconds
