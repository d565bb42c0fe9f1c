"""The keeper: the launched process, which runs the server as its child, stops it, and cleans up after it.

SGLang ends its processes, including itself, with SIGKILL, and then nothing removes its files and its shared memory.
Here, the parent does, however the server ended. If the parent is killed, the server cleans up before it ends, too. Each
of the two kills the other if it hangs.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import psutil

from sglang_speechlm.process.exit_status import ExitStatus
from sglang_speechlm.process.heartbeat import (
    HUNG_SECONDS,
    INTERVAL_SECONDS,
    LOOP_HUNG_SECONDS,
    START_SECONDS,
    Heartbeat,
    Silence,
)
from sglang_speechlm.process.stdio import ignore_failing_writes

_PR_SET_CHILD_SUBREAPER = 36
_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_HANDLED = (*_STOPPING, signal.SIGCHLD)
_GONE_SECONDS = 5.0
_SECOND_SIGNAL_SECONDS = 10.0
"""Time for a server to send its clients errors after a second signal."""
_SEGMENTS = "segments"


def keep(serve: Callable[[Heartbeat], int], stop_seconds: float, stop_at_once: signal.Signals = signal.SIGKILL) -> int:
    """Run ``serve`` in a child process in its own session, and clean up after it.

    The first SIGTERM, SIGINT or SIGHUP is passed on as SIGTERM; a second one as ``stop_at_once``.

    Args:
        serve: returns the exit status. Its process has a TMPDIR that is removed at the end. Its argument is its
            heartbeat: a thread beats until ``serve`` lets an event loop beat; ``serve`` must call ``up`` when it is up.
        stop_seconds: how long it may take to stop after the signal.
        stop_at_once: the child's second stop signal, after which it has a few seconds.

    Returns:
        The exit status of this process.
    """
    try:
        return _keep(serve, stop_seconds, stop_at_once)
    except OSError as error:  # what is running has been ended
        _log(f"a system resource is exhausted: {error}")
        return ExitStatus.FAILED


def _keep(serve: Callable[[Heartbeat], int], stop_seconds: float, stop_at_once: signal.Signals) -> int:
    _open_standard_streams()
    # Orphans are reparented to this process instead of init.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    lifeline, keepers_end = os.pipe()
    own_heartbeat, server_heartbeat = Heartbeat(), Heartbeat()
    with _Signals() as signals, contextlib.ExitStack() as after:
        folder = Path(tempfile.mkdtemp(prefix="speechlm-"))
        after.callback(_clear, folder, _GONE_SECONDS)
        # The child starts with this process's handlers: a signal that reached it too early would be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        server = os.fork()
        if server == 0:
            os.close(keepers_end)
            signals.restore()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
            _serve(serve, folder, _Keeper(os.getppid(), lifeline, own_heartbeat), server_heartbeat)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        os.close(lifeline)
        silence = Silence(server_heartbeat)
        signals_received = 0
        deadline = math.inf
        while (ended := _reap(server)) is None:
            own_heartbeat.beat()
            number = signals.next(INTERVAL_SECONDS)
            patience = LOOP_HUNG_SECONDS if server_heartbeat.is_up else START_SECONDS
            if number in _STOPPING:
                signals_received += 1
                if signals_received == 1:
                    deadline = time.monotonic() + stop_seconds
                    os.kill(server, signal.SIGTERM)
                else:
                    _log("second signal: stopping at once")
                    deadline = min(deadline, time.monotonic() + _SECOND_SIGNAL_SECONDS)
                    os.kill(server, stop_at_once)
            elif time.monotonic() > deadline:
                _log("the server did not stop in time: killing it")
                os.kill(server, signal.SIGKILL)
            elif number is None and silence.look() > patience:
                _log(f"no heartbeat from the server for {patience:g} s: killing it")
                os.kill(server, signal.SIGKILL)
    os.close(keepers_end)
    return _status(ended, signals_received, server_heartbeat.is_up)


def _open_standard_streams() -> None:
    """Open closed standard streams, so that no file or socket gets their descriptors and with them printed text."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def remove_at_end(path: str) -> None:
    """Register a file outside TMPDIR for removal at the end, such as shared memory that its creators leave behind."""
    with (Path(os.environ["TMPDIR"]) / _SEGMENTS).open("a") as segments:
        segments.write(f"{path}\n")


class _Signals:
    """Queues signals: whichever thread receives them, their numbers arrive in a pipe."""

    def __enter__(self) -> _Signals:
        self._out, self._in = os.pipe()
        os.set_blocking(self._in, False)
        self._before = {number: signal.getsignal(number) for number in (*_HANDLED, signal.SIGTSTP)}
        for number, before in self._before.items():
            if number != signal.SIGHUP or before != signal.SIG_IGN:  # nohup
                signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # Ctrl-Z would look like a hang
        signal.set_wakeup_fd(self._in)
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def restore(self) -> None:
        """Restore the previous handlers."""
        signal.set_wakeup_fd(-1)
        for number, before in self._before.items():
            signal.signal(number, before)
        os.close(self._out)
        os.close(self._in)

    def next(self, seconds: float) -> int | None:
        """Return the next signal's number; None if none arrives in time."""
        if not select.select([self._out], [], [], seconds)[0]:
            return None
        return os.read(self._out, 1)[0]


@dataclass(frozen=True)
class _Keeper:
    """The keeper, seen from the process that serves.

    Attributes:
        pid: its process id.
        lifeline: read end of a pipe that is closed when the keeper ends.
        heartbeat: the keeper's.
    """

    pid: int
    lifeline: int
    heartbeat: Heartbeat


def _serve(serve: Callable[[Heartbeat], int], folder: Path, keeper: _Keeper, heartbeat: Heartbeat) -> NoReturn:
    # In its own session: Ctrl-C reaches only the keeper, which stops the server, which stops its processes.
    os.setsid()
    ignore_failing_writes()
    before = tempfile.gettempdir()
    # Compiled kernels are worth keeping.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{before}/torchinductor_{os.getuid()}")
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    threading.Thread(target=_end_with_keeper, args=(keeper, folder), daemon=True).start()
    heartbeat.beat_by_thread()
    status: int = ExitStatus.FAILED
    try:
        status = serve(heartbeat)
    except SystemExit as error:  # raised by argparse
        status = error.code if isinstance(error.code, int) else ExitStatus.FAILED
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(status)


def _end_with_keeper(keeper: _Keeper, folder: Path) -> None:
    silence = Silence(keeper.heartbeat)
    while not select.select([keeper.lifeline], [], [], INTERVAL_SECONDS)[0]:
        if silence.look() > HUNG_SECONDS:
            _log(f"no heartbeat from the keeper for {HUNG_SECONDS:g} s: killing it")
            with contextlib.suppress(ProcessLookupError):
                os.kill(keeper.pid, signal.SIGKILL)
    _log("the keeper was killed; ending the server")
    _clear(folder, 0.0)  # the server's own resource tracker ends after it
    os._exit(ExitStatus.PART_DIED)


def _reap(server: int) -> int | None:
    """Reap ended children; return the server's status if it has ended (negative for a signal), else None."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == server:
            return os.waitstatus_to_exitcode(status)
        if pid == 0:
            return None


def _clear(folder: Path, tracker_seconds: float) -> None:
    """Kill the remaining descendants of this process, then remove their files.

    Python's resource tracker ends by itself after it has removed the semaphores and segments of the others.
    """
    trackers: list[psutil.Process] = []
    others: list[psutil.Process] = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            is_tracker = any("multiprocessing.resource_tracker" in word for word in process.cmdline())
            (trackers if is_tracker else others).append(process)
    for process in others:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(others, _GONE_SECONDS)
    psutil.wait_procs(trackers, tracker_seconds)
    # Folders inside of this one are those of keepers that were killed above.
    for listed in folder.rglob(_SEGMENTS):
        with contextlib.suppress(OSError):
            for path in listed.read_text().splitlines():
                Path(path).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _status(ended: int, signals_received: int, was_up: bool) -> int:
    if ended >= 0:
        return ended
    if signals_received > 1 or (signals_received and ended == -signal.SIGKILL):
        return ExitStatus.CUT_OFF
    if signals_received:  # it was still loading, so no request was cut off
        return ExitStatus.STOPPED
    _log(f"the server was killed by {signal.Signals(-ended).name}")
    return ExitStatus.PART_DIED if was_up else ExitStatus.NOT_STARTED


def _log(message: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(f"speechlm keeper: {message}", file=sys.stderr, flush=True)
