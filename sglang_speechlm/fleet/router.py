"""SGLang's router (smg): its process, and the workers that it routes to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import aiohttp
import orjson

from sglang_speechlm.fleet.router_process import KEY_VARIABLE
from sglang_speechlm.options.fleet import ROUTER_MAX_BYTES
from sglang_speechlm.process.parent import end_with_parent
from sglang_speechlm.process.port import ReservedPort
from sglang_speechlm.process.supervision import Backoff, repeat

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_ASK = aiohttp.ClientTimeout(total=5)
_PROBE_SECONDS = 3
_PROBE = aiohttp.ClientTimeout(total=_PROBE_SECONDS)
_MISSES_BEFORE_UNHEALTHY = 2
"""A worker whose event loop is busy once remains healthy."""
_PLAIN = {"Accept-Encoding": "identity"}
_LEAST_REQUEST_SECONDS = 7200.0
_SPARE_SECONDS = 60.0
_NEVER_SECONDS = "86400"

# smg would ask workers for this with a key that it then adds to requests without one; so it is set explicitly.
_KIND = {"runtime_type": "sglang", "connection_mode": "http", "worker_type": "regular"}


@dataclass(frozen=True)
class Member:
    """A worker that the router should have.

    Attributes:
        id: the fleet's id of the worker, for removing it.
        url: its URL.
        is_healthy: whether it gets requests: according to its own ``/health`` and to the router, unless that is away.
        worker_id: the id of its process, if known; ids of its spoken answers contain it.
    """

    id: str
    url: str
    is_healthy: bool
    worker_id: str | None


class Router:
    """The router, across restarts of its process, and the workers that it should have.

    Attributes:
        members: its workers, including those that it has not reached yet.
        awaited: workers that are being started.
        responds: whether the router answered the last request.
        misses: number of consecutive requests that it has not answered in time.
    """

    def __init__(self, session: aiohttp.ClientSession, routing: str, api_key: str | None) -> None:
        """Take the HTTP session, the routing policy, and the workers' key."""
        self._routing = routing
        self.members: list[Member] = []
        self.awaited = 0
        self.responds = False
        self.misses = 0
        self.url = ""
        self._metrics_url = ""
        self._ports: list[ReservedPort] = []
        self._session = session
        self._workers_key = _PLAIN | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
        self._key = secrets.token_hex()
        self._admin = _PLAIN | {"Authorization": f"Bearer {self._key}"}
        self._more: dict[str, dict[str, Any]] = {}
        self._changed = asyncio.Event()
        self._worker_misses: dict[str, int] = {}

    def start(self, request_seconds: float, log_format: str) -> subprocess.Popen[bytes]:
        """Start a router process on its own ports; it does not outlive this process."""
        self.responds, self.misses = False, 0
        for reserved in self._ports:
            reserved.close()
        self._ports = [ReservedPort(), ReservedPort()]
        port, metrics_port = (reserved.number for reserved in self._ports)
        self.url, self._metrics_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{metrics_port}"
        command = [sys.executable, "-m", "sglang_speechlm.fleet.router_process"]
        command += ["--host", "127.0.0.1", "--port", f"{port}"]
        command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", f"{metrics_port}"]
        command += ["--policy", self._routing, "--log-level", "warn"]
        command += ["--request-timeout-secs", f"{_router_seconds(request_seconds)}"]
        command += ["--max-payload-size", f"{ROUTER_MAX_BYTES}"]
        # A retried request would be generated again, and one that ended a worker would end the next one, too.
        command += ["--disable-retries"]
        # The 503 of a full queue is not a failure, and workers limit their requests themselves.
        command += ["--disable-circuit-breaker", "--max-concurrent-requests", "0"]
        # An answer that is not streamed sends nothing for minutes.
        command += ["--worker-wedge-secs", _NEVER_SECONDS]
        command += ["--sse-keepalive-secs", "0"]  # no comments in streams
        # If a check may last longer than the interval, smg spins while one does.
        command += ["--health-check-interval-secs", f"{_PROBE_SECONDS}"]
        command += ["--health-check-timeout-secs", f"{_PROBE_SECONDS}"]
        command += ["--health-failure-threshold", f"{_MISSES_BEFORE_UNHEALTHY}", "--health-success-threshold", "1"]
        command += ["--worker-startup-check-interval", "1"]
        if log_format == "json":
            command.append("--log-json")
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=partial(end_with_parent, signal.SIGKILL),  # it has nothing to save
            # Proxies in the environment do not apply to workers.
            env={**os.environ, KEY_VARIABLE: self._key, "NO_PROXY": "*", "no_proxy": "*"},
        )

    def add(self, url: str, more: Mapping[str, Any] | None = None) -> Member:
        """Add a worker; ``more`` has the operator's own fields for smg's POST /workers."""
        self.remove(url)
        member = Member(secrets.token_hex(8), url, False, None)
        self.members.append(member)
        self._more[url] = dict(more or {})
        return member

    def remove(self, url: str) -> None:
        """Remove a worker."""
        self._more.pop(url, None)
        self._worker_misses.pop(url, None)
        self.members = [member for member in self.members if member.url != url]
        self._changed.set()

    @property
    def total(self) -> int:
        """Number of workers, including those that are being started."""
        return len(self.members) + self.awaited

    def healthy(self) -> list[Member]:
        """Return the workers that get requests."""
        return [member for member in self.members if member.is_healthy]

    async def metrics(self) -> tuple[str, dict[str, str]]:
        """Return the router's page, and every worker's by URL, without workers that have none."""
        urls = [member.url for member in self.members]
        router, *pages = await asyncio.gather(
            self._page(self._metrics_url, _PLAIN), *(self._page(url, self._workers_key) for url in urls)
        )
        return router, {url: page for url, page in zip(urls, pages, strict=True) if page}

    def misses_of(self, url: str) -> int:
        """Return how many consecutive requests a worker has not answered in time."""
        return self._worker_misses.get(url, 0)

    async def follow(self) -> None:
        """Keep the router's list of workers, and their states here, up to date, forever."""
        await repeat(self._follow, Backoff(_POLL_SECONDS, _POLL_SECONDS))

    async def _follow(self) -> None:
        urls = list(self._more)
        listed, *answers = await asyncio.gather(self._listed(), *(self._is_healthy(url) for url in urls))
        healthy = {url for url, answer in zip(urls, answers, strict=True) if answer and url in self._more}
        if listed is not None:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                healthy &= await self._compare(listed)
        known = {member.url: member.worker_id for member in self.healthy() if member.worker_id}
        new = healthy - known.keys()
        ids = known | dict(zip(new, await asyncio.gather(*map(self._worker_id, new)), strict=True))
        self.members = [
            replace(member, is_healthy=member.url in healthy, worker_id=ids.get(member.url)) for member in self.members
        ]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_POLL_SECONDS):
                await self._changed.wait()
            self._changed.clear()

    async def _listed(self) -> dict[str, dict[str, Any]] | None:
        """Return the router's workers by URL; None if it does not answer."""
        try:
            async with self._session.get(f"{self.url}/workers", headers=self._admin, timeout=_PROBE) as response:
                response.raise_for_status()
                listed = {worker["url"]: worker for worker in (await response.json())["workers"]}
        except TimeoutError:
            self.responds, self.misses = False, self.misses + 1
            return None
        except (aiohttp.ClientError, ValueError, LookupError, TypeError) as error:
            logger.debug("The router does not answer: %s", error)
            self.responds = False
            return None
        self.responds, self.misses = True, 0
        return listed

    async def _is_healthy(self, url: str) -> bool:
        """Whether a worker is healthy; one late answer does not change its state."""
        answer = await self.probe(url)
        misses = self.misses_of(url) + 1 if answer is None else 0
        if url in self._more:  # it may have been removed meanwhile
            self._worker_misses[url] = misses
        if answer is None and misses < _MISSES_BEFORE_UNHEALTHY:
            return any(member.is_healthy for member in self.members if member.url == url)
        return bool(answer)

    async def probe(self, url: str) -> bool | None:
        """Return whether a worker's ``/health`` is 200; None if it does not answer in time."""
        try:
            async with self._session.get(f"{url}/health", headers=self._workers_key, timeout=_PROBE) as response:
                return response.status == 200
        except TimeoutError:
            return None
        except (aiohttp.ClientError, OSError):
            return False

    async def _compare(self, listed: Mapping[str, Mapping[str, Any]]) -> set[str]:
        """Update the router's list of workers; return those that it sends requests to."""
        for url, worker in listed.items():
            if url not in self._more:
                await self._control("DELETE", f"/workers/{worker['id']}")
        await asyncio.gather(*(self._introduce(url) for url in self._more.keys() - listed.keys()))
        before = {member.url for member in self.healthy()}
        # A restarted router does not know its previous workers yet.
        return {url for url in self._more if (listed[url]["is_healthy"] if url in listed else url in before)}

    async def _introduce(self, url: str) -> None:
        models = await self._field(f"{url}/v1/models", "data")
        if not isinstance(models, list):  # not up yet
            return
        names = [model["id"] for model in models if isinstance(model, dict) and "id" in model]
        # smg keeps the first model of a worker, and finds it by its aliases too.
        cards = [{"id": name, "aliases": names[1:]} for name in names[:1]]
        worker = {**_KIND, "models": cards, **self._more.get(url, {}), "url": url}
        status, reason = await self._control("POST", "/workers", worker)
        if status >= 300 and status != 409:
            logger.error("The router refuses the worker %s: %d %s", url, status, reason.decode(errors="replace"))

    async def _control(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Send a request to the router's control plane; return status and body."""
        async with self._session.request(
            method, f"{self.url}{path}", json=body, headers=self._admin, timeout=_ASK
        ) as response:
            return response.status, await response.read()

    async def _worker_id(self, url: str) -> str | None:
        return await self._field(f"{url}/worker_id", "worker_id")

    async def _field(self, url: str, field: str) -> Any:
        """Return a field of a worker's JSON response; None if there is none, whatever is at the URL."""
        try:
            async with self._session.get(url, headers=self._workers_key, timeout=_PROBE) as response:
                answer = orjson.loads(await response.read()) if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError):
            return None
        return answer.get(field) if isinstance(answer, dict) else None

    async def _page(self, base: str, headers: Mapping[str, str]) -> str:
        try:
            async with self._session.get(f"{base}/metrics", headers=headers, timeout=_ASK) as response:
                return await response.text(errors="replace") if response.status == 200 else ""
        except (aiohttp.ClientError, TimeoutError):
            return ""


def _router_seconds(request_seconds: float) -> int:
    """Return a timeout above the workers' own, so that the workers report timeouts to clients."""
    return int(max(_LEAST_REQUEST_SECONDS, request_seconds + _SPARE_SECONDS))
