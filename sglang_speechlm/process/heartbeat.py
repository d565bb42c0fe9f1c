"""Heartbeats: a process counts up in memory that it shares with its watcher, so that a hang is noticed like a death.

That a process exists says nothing: it may be stopped, or wait for ever. Each process of a server therefore counts up
once a second, and its watcher acts if the count stands still for longer than the process can be busy.
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
"""Without a beat, after which a process does not count as healthy."""
HUNG_SECONDS = 10.0
"""Without a beat of a thread, after which a process is ended. Threads beat on while torch computes or reads."""
LOOP_HUNG_SECONDS = 20.0
"""Without a beat of an event loop, which is late while it parses a large body."""
START_SECONDS = 600.0
"""Without a beat, at start: libraries that come from a slow disk are loaded under Python's lock."""

_BYTES = 16


class Heartbeat:
    """The count of one process.

    The memory has no file: a full disk stops no heart. It is passed on by fork, by multiprocessing's spawn, or to any
    other child by its descriptor.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        """Make a new count, or open one by its file descriptor."""
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
        """Whether the process has said that it has started."""
        return self._cell[1] > 0

    def up(self) -> None:
        """Say that this process has started."""
        self._cell[1] = 1

    def close(self) -> None:
        """Give up the descriptor; the count can be read on."""
        os.close(self.descriptor)

    def beat(self) -> None:
        """Give one sign of life."""
        self._cell[0] += 1

    def beat_by_thread(self) -> None:
        """Have a thread of this process beat from now on."""
        threading.Thread(target=self._beat_on, name="heartbeat", daemon=True).start()

    def beat_by_loop(self) -> None:
        """Have the running event loop beat from now on, in place of a thread: a loop that is blocked answers nobody."""
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
    """How long a heart has been silent, by what its watcher has seen of it.

    A watcher that was itself stopped, as on a suspended machine, has watched nobody meanwhile: however long the pause
    between two looks was, it counts as two intervals at most.
    """

    def __init__(self, heartbeat: Heartbeat) -> None:
        """Begin to watch."""
        self._heartbeat = heartbeat
        self._count = heartbeat.count
        self._looked = time.monotonic()
        self.seconds = 0.0

    def look(self) -> float:
        """Look again, about once an interval. Seconds without a beat."""
        now, count = time.monotonic(), self._heartbeat.count
        self.seconds = 0.0 if count != self._count else self.seconds + min(now - self._looked, 2 * INTERVAL_SECONDS)
        self._looked, self._count = now, count
        return self.seconds
