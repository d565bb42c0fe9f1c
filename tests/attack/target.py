"""The running server or fleet that is attacked."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
from server.process import Server, command_of, serving

KEY = "sk-user-5up3r"
ADMIN_KEY = "sk-admin-5ecr3t"
CHAT = "/v1/chat/completions"
_POOL = ("--max-total-tokens", "8192", "--enable-metrics")
_ANSWER_SECONDS = 120.0


@dataclass(frozen=True)
class Target:
    """A running server or fleet.

    Attributes:
        name: the name in the table.
        server: the launcher.
        is_fleet: whether there is a front with workers and a router.
        has_keys: whether it requires ``KEY`` or ``ADMIN_KEY``.
    """

    name: str
    server: Server
    is_fleet: bool
    has_keys: bool

    @property
    def address(self) -> tuple[str, int]:
        """The host and the port."""
        parts = urlsplit(self.server.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def client(self, *, admin: bool = False, seconds: float = _ANSWER_SECONDS) -> httpx.Client:
        """Return a client with the key, if the target has one."""
        key = ADMIN_KEY if admin else KEY
        headers = {"Authorization": f"Bearer {key}"} if self.has_keys else {}
        return httpx.Client(base_url=self.server.url, headers=headers, timeout=seconds, trust_env=False, verify=False)

    def is_healthy(self, seconds: float = 5.0) -> bool:
        """Return whether ``/health`` responds with 200 in time."""
        with contextlib.suppress(httpx.HTTPError):
            response = httpx.get(f"{self.server.url}/health", timeout=seconds, trust_env=False, verify=False)
            return response.status_code == 200
        return False

    def answers(self) -> bool:
        """Return whether a valid request is answered."""
        body = {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 2}
        with contextlib.suppress(httpx.HTTPError), self.client() as client:
            return client.post(CHAT, json=body).status_code == 200
        return False

    def healthy_workers(self) -> int:
        """Return the number of workers that receive requests; for a single server, 1 or 0."""
        if not self.is_fleet:
            return int(self.is_healthy())
        with contextlib.suppress(httpx.HTTPError, ValueError), self.client(seconds=5) as client:
            return int(client.get("/readiness").json()["healthy_workers"])
        return 0

    def processes(self) -> list[psutil.Process]:
        """Return the launcher and all of its descendants."""
        launcher = psutil.Process(self.server.process.pid)
        return [launcher, *launcher.children(recursive=True)]

    def memory(self) -> int:
        """Return the resident bytes of all processes; shared pages count once per process."""
        return resident_bytes(self.processes())

    def parts(self) -> dict[str, psutil.Process]:
        """Return the processes that may be killed or stopped, by name; in a fleet, those of the first worker.

        Parts that do not run at present, for example during a restart, are left out.
        """
        if not self.is_fleet:
            return _parts_of(psutil.Process(self.server.process.pid))
        routers = [process for process in self.processes() if "router_process" in command_of(process)]
        pids = re.findall(r"Worker 0: process (\d+) at ", self.server.output())
        parts = {"router": routers[-1]} if routers else {}
        with contextlib.suppress(psutil.NoSuchProcess):
            parts |= _parts_of(psutil.Process(int(pids[-1])))
        return parts

    def send(self, raw: bytes, seconds: float = 5.0) -> bytes:
        """Send raw bytes and return what is received until the connection closes or is silent for ``seconds``."""
        answer = b""
        with contextlib.suppress(OSError), socket.create_connection(self.address, timeout=seconds) as connection:
            connection.sendall(raw)
            while piece := connection.recv(1 << 16):
                answer += piece
        return answer


def resident_bytes(processes: Iterable[psutil.Process]) -> int:
    """Return the resident bytes of the processes that still run; shared pages count once per process."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def _parts_of(keeper: psutil.Process) -> dict[str, psutil.Process]:
    names = {"scheduler": "sglang::scheduler", "detokenizer": "sglang::detokenizer", "codec": "codec"}
    processes = keeper.children(recursive=True)
    parts = {"keeper": keeper}
    if children := keeper.children():
        parts["http process"] = children[0]
    for name, word in names.items():
        for process in processes:
            if word in command_of(process) and process not in parts.values():
                parts[name] = process
    return parts


@contextlib.contextmanager
def target(model: Path, log: Path, *, fleet: bool, keys: bool) -> Iterator[Target]:
    """Yield a ready target, stopped at the end."""
    options = [*_POOL]
    if fleet:
        options += ["--dp", "2", "--tp", "1"]
    if keys:
        options += ["--api-key", KEY, "--admin-api-key", ADMIN_KEY]
    name = f"{'fleet' if fleet else 'single'}{', keys' if keys else ''}"
    with serving(model, log, *options) as server:
        yield Target(name, server, fleet, keys)


class Canary:
    """A listener on the loopback that no server may connect to."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.visits = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.visits += 1
                connection.close()

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()
