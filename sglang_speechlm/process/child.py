"""A server as its users start it: the launcher in a process of its own, spoken to over HTTP only."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Protocol

import httpx
import psutil

from sglang_speechlm.process.parent import end_with_parent
from sglang_speechlm.process.port import ReservedPort

START_SECONDS = 600.0
STOP_SECONDS = 60.0
"""More than a server takes by itself, which bounds its own stop."""
_LOG_TAIL = 4000


class WorkerFailed(RuntimeError):
    """A server that ended or did not come up; holds the end of its log."""


class Process(Protocol):
    """What is used of a ``subprocess.Popen``."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, number: int, /) -> None: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


class Worker:
    """One server on a port of this machine's loopback.

    It is told to end when the thread that made it does, so make it in one that lasts.

    Args:
        model: a served directory.
        log: the file that its output goes to; None is where this process's own goes.
        options: of the launcher, after the model's path; a port of its own is kept for it unless they name one.
        environment: variables beside this process's own.
        cores: processors that it may run on; all without it.
    """

    def __init__(
        self,
        model: Path,
        log: Path | None,
        options: Sequence[str] = (),
        *,
        environment: Mapping[str, str] | None = None,
        cores: set[int] | None = None,
    ) -> None:
        own = _port_of(options)
        self._port = None if own is not None else ReservedPort()
        port = own if self._port is None else self._port.number
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        command = [sys.executable, "-m", "sglang_speechlm.launch", "--model-path", str(model)]
        command += [*options, "--port", f"{port}"]
        with contextlib.ExitStack() as undo:
            undo.callback(self._give_up_port)
            output = undo.enter_context(log.open("wb")) if log is not None else None
            self.process = self._begin(command, output, {**os.environ, **(environment or {})})
            undo.pop_all()
        if output is not None:
            output.close()
        if cores is not None:
            os.sched_setaffinity(self.process.pid, cores)

    def _begin(self, command: list[str], output: IO[bytes] | None, environment: Mapping[str, str]) -> Process:
        """Start the launcher."""
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output is not None else None,
            start_new_session=True,
            # Also where this process is interrupted before it knows that it has started one.
            preexec_fn=partial(end_with_parent, signal.SIGTERM),
            env=environment,
        )

    def output(self) -> str:
        """What it has printed to its log so far."""
        return self._log.read_text(errors="replace") if self._log is not None else ""

    def is_ready(self) -> bool:
        """Whether its warm-up has succeeded.

        Raises:
            WorkerFailed: if it has ended.
        """
        if self.process.poll() is not None:
            raise WorkerFailed(f"the server ended with status {self.process.returncode}:\n{self._end_of_log()}")
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health", timeout=5, trust_env=False).status_code == 200
        return False

    def wait_until_ready(self, seconds: float = START_SECONDS) -> None:
        """Wait for the end of the warm-up.

        Raises:
            WorkerFailed: if it ends, or is not ready after ``seconds``.
        """
        deadline = time.monotonic() + seconds
        while not self.is_ready():
            if time.monotonic() > deadline:
                raise WorkerFailed(f"the server was not ready after {seconds:g} s:\n{self._end_of_log()}")
            time.sleep(0.2)

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """Ask it to end; whatever of it is left after ``seconds`` is killed. Gives its exit status."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.kill()

    def kill(self) -> int:
        """End it and everything below it at once. Gives its exit status."""
        # Once it has been waited for, its number may be another's.
        family = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        self.process.kill()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._give_up_port()
        return self.process.wait()

    def _give_up_port(self) -> None:
        if self._port is not None:
            self._port.close()

    def _end_of_log(self) -> str:
        return self.output()[-_LOG_TAIL:]


def _port_of(options: Sequence[str]) -> int | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--port", type=int)
    port: int | None = parser.parse_known_args(list(options))[0].port
    return port


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def running(
    model: Path,
    log: Path,
    options: Sequence[str] = (),
    *,
    environment: Mapping[str, str] | None = None,
    cores: set[int] | None = None,
) -> Iterator[Worker]:
    """A ready server, stopped at the end.

    Raises:
        WorkerFailed: if it does not come up.
    """
    worker = Worker(model, log, options, environment=environment, cores=cores)
    try:
        worker.wait_until_ready()
        yield worker
    finally:
        worker.stop()
