"""The process that was started keeps the one that serves: tells it to stop, and clears away whatever is left of it.

SGLang ends its processes, itself included, with SIGKILL, and then nobody removes its files and its shared memory. Here
the parent does, however the server ended; and if the parent is killed, the server does before it ends as well. Each of
the two kills the other if it hangs.
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
from sglang_speechlm.process.stdio import forgive_failing_writes

_PR_SET_CHILD_SUBREAPER = 36
_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_HANDLED = (*_STOPPING, signal.SIGCHLD)
_GONE_SECONDS = 5.0
_SEGMENTS = "segments"


def keep(serve: Callable[[Heartbeat], int], stop_seconds: float) -> int:
    """Run ``serve`` in a process of its own, which no terminal reaches, and clear away after it.

    SIGTERM, SIGINT and SIGHUP are passed on as SIGTERM, once; a second one ends it at once.

    Args:
        serve: gives the exit status; its process has a TMPDIR that is removed in the end. It takes its heartbeat, which
            beats by a thread until ``serve`` has an event loop beat, and which it is to tell when it serves.
        stop_seconds: that it may take after the signal.

    Returns:
        The exit status of this process.
    """
    _open_standard_streams()
    # Whoever loses his parent becomes a child of this process and not of the first one.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    lifeline, held = os.pipe()
    own, servers = Heartbeat(), Heartbeat()
    with _Signals() as signals, contextlib.ExitStack() as after:
        folder = Path(tempfile.mkdtemp(prefix="speechlm-"))
        after.callback(_clear, folder, _GONE_SECONDS)
        # The server would take a signal that reaches it too early for one to this process, whose handlers it has.
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        server = os.fork()
        if server == 0:
            os.close(held)
            signals.restore()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
            _serve(serve, folder, _Keeper(os.getppid(), lifeline, own), servers)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        os.close(lifeline)
        silence = Silence(servers)
        told = 0
        deadline = math.inf
        while (ended := _reap(server)) is None:
            own.beat()
            number = signals.next(INTERVAL_SECONDS)
            patience = LOOP_HUNG_SECONDS if servers.is_up else START_SECONDS
            if number in _STOPPING:
                told += 1
                if told == 1:
                    deadline = time.monotonic() + stop_seconds
                    os.kill(server, signal.SIGTERM)
                else:
                    _say("told again: stopping at once")
                    os.kill(server, signal.SIGKILL)
            elif time.monotonic() > deadline:
                _say(f"not stopped after {stop_seconds:g} s: killing it")
                os.kill(server, signal.SIGKILL)
            elif number is None and silence.look() > patience:
                _say(f"the server has given no sign of life for {patience:g} s: killing it")
                os.kill(server, signal.SIGKILL)
    os.close(held)
    return _status(ended, told, servers.is_up)


def _open_standard_streams() -> None:
    """Where one was closed, its number would go to the next file or socket, which then got what is printed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def remove_in_the_end(path: str) -> None:
    """Have a file outside of TMPDIR removed too, such as shared memory that its makers leave behind."""
    with (Path(os.environ["TMPDIR"]) / _SEGMENTS).open("a") as listed:
        listed.write(f"{path}\n")


class _Signals:
    """Signals that wait to be looked at; whichever thread they reach, their numbers come out of a pipe."""

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
        """Handle them as before."""
        signal.set_wakeup_fd(-1)
        for number, before in self._before.items():
            signal.signal(number, before)
        os.close(self._out)
        os.close(self._in)

    def next(self, seconds: float) -> int | None:
        """The next one; None if none comes in time."""
        if not select.select([self._out], [], [], seconds)[0]:
            return None
        return os.read(self._out, 1)[0]


@dataclass(frozen=True)
class _Keeper:
    """The keeper, seen from the process that serves.

    Attributes:
        pid: its process id.
        lifeline: end of a pipe that is closed with the keeper's end.
        heartbeat: its own.
    """

    pid: int
    lifeline: int
    heartbeat: Heartbeat


def _serve(serve: Callable[[Heartbeat], int], folder: Path, keeper: _Keeper, heartbeat: Heartbeat) -> NoReturn:
    # Whoever interrupts from a terminal reaches the keeper only, which tells the server, which tells its parts.
    os.setsid()
    forgive_failing_writes()
    before = tempfile.gettempdir()
    # Compiled kernels are worth keeping.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{before}/torchinductor_{os.getuid()}")
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    threading.Thread(target=_end_with_keeper, args=(keeper, folder), daemon=True).start()
    heartbeat.beat_by_thread()
    status: int = ExitStatus.FAILED
    try:
        status = serve(heartbeat)
    except SystemExit as error:  # of argparse
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
            _say(f"has given no sign of life for {HUNG_SECONDS:g} s: killing it")
            with contextlib.suppress(ProcessLookupError):
                os.kill(keeper.pid, signal.SIGKILL)
    _say("was killed; the server ends with it")
    _clear(folder, 0.0)  # its resource tracker ends after it
    os._exit(ExitStatus.PART_DIED)


def _reap(server: int) -> int | None:
    """Collect what has ended; the server's status once it has, negative for a signal."""
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
    """End what is left of the processes below this one, then remove their files.

    Python's resource tracker ends by itself, once it has removed the semaphores and segments of the others.
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
    with contextlib.suppress(OSError):
        for path in (folder / _SEGMENTS).read_text().splitlines():
            Path(path).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _status(ended: int, told: int, was_up: bool) -> int:
    if ended >= 0:
        return ended
    if told > 1 or (told and ended == -signal.SIGKILL):
        return ExitStatus.CUT_OFF
    if told:  # while it was loading, when nobody was served
        return ExitStatus.STOPPED
    _say(f"the server was killed by {signal.Signals(-ended).name}")
    return ExitStatus.PART_DIED if was_up else ExitStatus.NOT_STARTED


def _say(what: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(f"speechlm keeper: {what}", file=sys.stderr, flush=True)
