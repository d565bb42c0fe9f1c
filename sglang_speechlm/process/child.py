"""Start a server as users do: the launcher in a child process, accessed over HTTP only."""

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
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import IO, Protocol

import psutil

from sglang_speechlm.process.parent import end_with_parent
from sglang_speechlm.process.port import ReservedPort

START_SECONDS = 600.0
STOP_SECONDS = 60.0
"""Longer than a server's own limit for stopping."""
_LOG_TAIL = 4000


class ServerFailed(RuntimeError):
    """A server ended or did not start; the message has the end of its log."""


class Process(Protocol):
    """The part of ``subprocess.Popen`` that ``ServerProcess`` uses."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, number: int, /) -> None: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


class ServerProcess:
    """One server on a port of this machine's loopback.

    It gets SIGTERM when the thread that created it ends, so create it in a long-lived thread.

    Args:
        model: a served directory.
        log: the file for its output; None means this process's own output.
        options: the launcher's options, without the model's path; a port is reserved for it unless they name one.
        environment: variables in addition to this process's own.
        cores: processors that it may run on; None means all.
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
            # Even if this process is interrupted before Popen returns.
            preexec_fn=partial(end_with_parent, signal.SIGTERM),
            env=environment,
        )

    def output(self) -> str:
        """Return the contents of its log so far."""
        return self._log.read_text(errors="replace") if self._log is not None else ""

    def is_ready(self) -> bool:
        """Whether its warm-up has succeeded.

        Raises:
            ServerFailed: if it has ended.
        """
        if self.process.poll() is not None:
            raise ServerFailed(f"the server ended with status {self.process.returncode}:\n{self._end_of_log()}")
        # Not by httpx, which reads all certificates for every client: a start is asked many times.
        connection = HTTPConnection(self.url.removeprefix("http://"), timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError, HTTPException):
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        return False

    def wait_until_ready(self, seconds: float = START_SECONDS) -> None:
        """Wait for the end of the warm-up.

        Raises:
            ServerFailed: if it ends, or is not ready after ``seconds``.
        """
        deadline = time.monotonic() + seconds
        while not self.is_ready():
            if time.monotonic() > deadline:
                raise ServerFailed(f"the server was not ready after {seconds:g} s:\n{self._end_of_log()}")
            time.sleep(0.2)

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """Send SIGTERM, kill what is left after ``seconds``, and return the exit status."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.kill()

    def kill(self) -> int:
        """Kill it and its descendants at once, and return the exit status."""
        # After it has been waited for, its pid may belong to another process.
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
    """Return a TCP port of the loopback on which nothing listens."""
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
) -> Iterator[ServerProcess]:
    """Start a server, yield it when it is ready, and stop it at the end.

    Raises:
        ServerFailed: if it does not start.
    """
    server = ServerProcess(model, log, options, environment=environment, cores=cores)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()
