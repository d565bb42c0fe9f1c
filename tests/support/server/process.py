"""Servers for tests: the product's own workers, on one thread each, since many of them share few cores."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    "wait_for",
]

SECONDS = 300
"""That a test waits at most for what takes a moment on a machine that does nothing else."""
LAUNCHER = "sglang_speechlm.launch"
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}


_zygote = Zygote()


class Server(ServerProcess):
    """A worker that begins as a copy where it can, and by its command line otherwise: with variables of its own.

    Another ``launcher`` is a module that becomes the product's after it has changed what it needs.
    """

    def __init__(self, *args: Any, launcher: str = LAUNCHER, **options: Any) -> None:
        self._launcher = launcher
        super().__init__(*args, **options)

    def _begin(self, command: list[str], output: IO[bytes] | None, environment: Mapping[str, str]) -> Process:
        command = [self._launcher if word == LAUNCHER else word for word in command]
        if not _is_copied_with(environment):
            return super()._begin(command, output, environment)
        outputs = (output.fileno(), output.fileno()) if output is not None else (1, 2)
        return _zygote.launch(command, environment, outputs)


def launch(arguments: Sequence[str], output: IO[bytes]) -> Process:
    """A launcher with these arguments alone, begun as a copy where it can; ``output`` gets all that it prints."""
    command = [sys.executable, "-m", LAUNCHER, *arguments]
    environment = {**os.environ, **_ONE_THREAD}
    if not _is_copied_with(environment):
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    return _zygote.launch(command, environment, (output.fileno(), output.fileno()))


def _is_copied_with(environment: Mapping[str, str]) -> bool:
    return not torch.cuda.is_available() and _zygote.can_run_with(environment)


@contextlib.contextmanager
def launching(model: Path, log: Path, *options: str) -> Iterator[Server]:
    """A server that is not expected to come up; stopped at the end."""
    server = Server(model, log, options, environment=_ONE_THREAD)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def serving(
    model: Path, log: Path, *options: str, environment: Mapping[str, str] | None = None, launcher: str = LAUNCHER
) -> Iterator[Server]:
    """A ready server, stopped at the end."""
    server = Server(model, log, options, environment={**_ONE_THREAD, **(environment or {})}, launcher=launcher)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


def command_of(process: psutil.Process) -> str:
    """A process's command line; nothing if it has ended, as short-lived ones do at any moment."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def listening_addresses(pid: int) -> set[str]:
    """The addresses at which a process and everything below it listen for TCP connections, without their ports."""
    keeper = psutil.Process(pid)
    addresses: set[str] = set()
    for process in (keeper, *keeper.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            connections = process.net_connections("tcp")
            addresses |= {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}
    return addresses


def wait_for(condition: Callable[[], bool], seconds: float = SECONDS) -> bool:
    """Whether ``condition`` came true within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
