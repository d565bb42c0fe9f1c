"""Fleets for tests, and access to their processes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import torch

from .client import Client
from .process import LAUNCHER, Server, command_of, serving, wait_for

COPYING = "tests.support.copying_fleet"
OPTIONS = ("--tp", "1", "--max-total-tokens", "8192", "--enable-metrics", "--tool-call-parser", "hermes")


class Fleet:
    """A launcher with its workers.

    Attributes:
        server: the launcher.
        client: a client of its port.
    """

    def __init__(self, server: Server, client: Client, size: int) -> None:
        self.server = server
        self.client = client
        self._size = size

    @property
    def workers(self) -> list[str]:
        """The URLs of the workers that are behind the port now."""
        return sorted(worker["url"] for worker in self.client.http.get("/workers").json()["workers"])

    def is_healthy(self) -> bool:
        """Return whether all workers receive requests."""
        with contextlib.suppress(httpx.HTTPError):
            return self.client.http.get("/readiness").json()["healthy_workers"] == self._size
        return False

    def processes(self) -> list[psutil.Process]:
        """Return the launcher and all of its descendants."""
        launcher = psutil.Process(self.server.process.pid)
        return [launcher, *launcher.children(recursive=True)]

    def keeper(self, url: str) -> psutil.Process:
        """Return the keeper of a worker: the process that the launcher started last for this URL."""
        pids = re.findall(rf"process (\d+) at {re.escape(url)}\n", self.server.output())
        return psutil.Process(int(pids[-1]))

    def part(self, url: str, name: str) -> psutil.Process:
        """Return a process of a worker by a word of its command line."""
        family = self.keeper(url).children(recursive=True)
        return next(process for process in reversed(family) if name in command_of(process))

    def router(self) -> psutil.Process:
        """Return the router's process."""
        return next(process for process in self.processes() if "router_process" in command_of(process))


@contextlib.contextmanager
def fleet_of(size: int, model: Path, log: Path, launcher: str = LAUNCHER) -> Iterator[Fleet]:
    """Yield a ready fleet, stopped at the end."""
    with serving(model, log, f"--dp={size}", *OPTIONS, launcher=launcher) as server, Client(server.url) as client:
        yield Fleet(server, client, size)


class SharedFleet(contextlib.ExitStack):
    """A fleet that tests share; it is started again after a test has ended it.

    Args:
        is_copying: whether workers are forked, where that is possible, instead of started by their command line.
    """

    def __init__(self, size: int, model: Path, folders: pytest.TempPathFactory, *, is_copying: bool = False) -> None:
        super().__init__()
        self._size, self._model, self._folders = size, model, folders
        self._launcher = COPYING if is_copying and not torch.cuda.is_available() else LAUNCHER
        self._fleet: Fleet | None = None

    def running(self) -> Fleet:
        """Return the running fleet once all of its workers are behind its port."""
        if self._fleet is None or self._fleet.server.process.poll() is not None:
            log = self._folders.mktemp("fleet") / "log"
            self._fleet = self.enter_context(fleet_of(self._size, self._model, log, self._launcher))
        assert wait_for(self._fleet.is_healthy)
        return self._fleet
