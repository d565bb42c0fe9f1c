"""Servers for tests: the product's own workers with one thread each, because many of them share few cores."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import psutil
import torch
from zygote import Zygote

from sglang_speechlm.process import ServerProcess, free_port
from sglang_speechlm.process.child import Process

__all__ = [
    "SECONDS",
    "Server",
    "command_of",
    "free_port",
    "launch",
    "launching",
    "listening_addresses",
    "serving",
    "slowed",
    "wait_for",
]

SECONDS = 300
"""Maximum time that a test waits for something that takes a moment on an idle machine."""
LAUNCHER = "sglang_speechlm.launch"
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}


_zygote = Zygote()


class Server(ServerProcess):
    """A worker that is forked where its environment allows, and otherwise started by its command line.

    ``launcher`` may name a module that patches something and then runs the product's launcher.
    """

    def __init__(self, *args: Any, launcher: str = LAUNCHER, **options: Any) -> None:
        self._launcher = launcher
        super().__init__(*args, **options)

    def _begin(self, command: list[str], output: IO[bytes] | None, environment: Mapping[str, str]) -> Process:
        command = [self._launcher if word == LAUNCHER else word for word in command]
        if not _can_fork(environment):
            return super()._begin(command, output, environment)
        outputs = (output.fileno(), output.fileno()) if output is not None else (1, 2)
        return _zygote.launch(command, environment, outputs)

    def part(self, name: str) -> psutil.Process:
        """Return one of its processes by a word of its command line; of several, the last."""
        processes = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in processes if name in command_of(process)][-1]


def launch(arguments: Sequence[str], output: IO[bytes], launcher: str = LAUNCHER) -> Process:
    """Run a module with exactly these arguments, forked where possible; ``output`` receives all that it prints."""
    command = [sys.executable, "-m", launcher, *arguments]
    environment = {**os.environ, **_ONE_THREAD}
    if not _can_fork(environment):
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    return _zygote.launch(command, environment, (output.fileno(), output.fileno()))


def _can_fork(environment: Mapping[str, str]) -> bool:
    return not torch.cuda.is_available() and _zygote.can_run_with(environment)


@contextlib.contextmanager
def launching(model: Path, log: Path, *options: str) -> Iterator[Server]:
    """Yield a server without waiting for it to become ready; stopped at the end."""
    server = Server(model, log, options, environment=_ONE_THREAD)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def serving(
    model: Path, log: Path, *options: str, environment: Mapping[str, str] | None = None, launcher: str = LAUNCHER
) -> Iterator[Server]:
    """Yield a ready server, stopped at the end."""
    server = Server(model, log, options, environment={**_ONE_THREAD, **(environment or {})}, launcher=launcher)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


def command_of(process: psutil.Process) -> str:
    """Return the command line of a process, or an empty string if it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


@contextlib.contextmanager
def slowed(*processes: psutil.Process) -> Iterator[None]:
    """Let processes run for a twentieth of the time: endless answers cost little, and nothing looks like a hang."""
    ended = threading.Event()

    def pause_and_resume() -> None:
        while not ended.is_set():
            for pause, seconds in (("suspend", 0.95), ("resume", 0.05)):
                for process in processes:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        getattr(process, pause)()
                ended.wait(seconds)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    with ThreadPoolExecutor(1) as threads:
        pausing = threads.submit(pause_and_resume)
        try:
            yield
        finally:
            ended.set()
            pausing.result()


def listening_addresses(pid: int) -> set[str]:
    """Return the addresses, without ports, at which a process and its descendants listen for TCP connections."""
    keeper = psutil.Process(pid)
    addresses: set[str] = set()
    for process in (keeper, *keeper.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            connections = process.net_connections("tcp")
            addresses |= {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}
    return addresses


def wait_for(condition: Callable[[], bool], seconds: float = SECONDS) -> bool:
    """Return whether ``condition`` becomes true within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
