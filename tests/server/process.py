"""A server as its users start it: the launcher in a process of its own, spoken to over HTTP only."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx

START_SECONDS = 240
STOP_SECONDS = 20
LOG_TAIL = 4000


class Launch:
    """The launcher's process group, its output in ``log``.

    Args:
        model: a served directory.
        log: a file that does not exist yet.
        options: of the launcher, after the model's path.
        environment: variables beside the test's own.
    """

    def __init__(self, model: Path, log: Path, *options: str, environment: Mapping[str, str] | None = None) -> None:
        self._log = log
        command = [sys.executable, "-m", "sglang_speechlm.launch", "--model-path", str(model), *options]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            )

    def output(self) -> str:
        """What the processes have printed so far."""
        return self._log.read_text(errors="replace")

    def wait(self, seconds: float) -> int:
        """The exit status.

        Raises:
            subprocess.TimeoutExpired: if the launcher still runs after ``seconds``.
        """
        return self.process.wait(seconds)

    def stop(self) -> None:
        """Ask the launcher to end; whatever of its group is left after ``STOP_SECONDS`` is killed."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Server(Launch):
    """A launcher that serves on a port of its own."""

    def __init__(self, model: Path, log: Path, *options: str, environment: Mapping[str, str] | None = None) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        # An idle scheduler would take one of the cores from the reference.
        where = ("--host", "127.0.0.1", "--port", str(port), "--sleep-on-idle")
        super().__init__(model, log, *where, *options, environment=environment)

    def wait_until_ready(self) -> None:
        """Wait for the end of the warm-up.

        Raises:
            RuntimeError: with the end of the log, if the server ends or does not come up.
        """

        def healthy() -> bool:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server exited with {self.process.returncode}:\n{self.output()[-LOG_TAIL:]}")
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{self.url}/health", timeout=5, trust_env=False).status_code == 200
            return False

        if not wait_for(healthy, START_SECONDS):
            raise RuntimeError(f"the server did not come up:\n{self.output()[-LOG_TAIL:]}")


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether ``condition`` came true within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@contextlib.contextmanager
def serving(model: Path, log: Path, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A ready server, stopped at the end."""
    server = Server(model, log, *options, environment=environment)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()
