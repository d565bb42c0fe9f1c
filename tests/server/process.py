"""Servers for tests: the product's own workers, on one thread each, since many of them share few cores."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil

from sglang_speechlm.process import Worker as Server
from sglang_speechlm.process import free_port, running

__all__ = ["SECONDS", "Server", "command_of", "free_port", "launching", "serving", "wait_for"]

SECONDS = 300
"""That a test waits at most for what takes a moment on a machine that does nothing else."""
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@contextlib.contextmanager
def launching(model: Path, log: Path, *options: str) -> Iterator[Server]:
    """A server that is not expected to come up; stopped at the end."""
    server = Server(model, log, options, environment=_ONE_THREAD)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def serving(model: Path, log: Path, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A ready server, stopped at the end."""
    with running(model, log, options, environment={**_ONE_THREAD, **(environment or {})}) as server:
        yield server


def command_of(process: psutil.Process) -> str:
    """A process's command line; nothing if it has ended, as short-lived ones do at any moment."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def wait_for(condition: Callable[[], bool], seconds: float = SECONDS) -> bool:
    """Whether ``condition`` came true within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
