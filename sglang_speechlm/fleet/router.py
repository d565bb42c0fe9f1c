"""SGLang's router (smg): its process, and the workers that it routes to."""

from __future__ import annotations

import asyncio
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
from sglang_speechlm.process import free_port
from sglang_speechlm.process.parent import end_with_parent

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_ASK = aiohttp.ClientTimeout(total=5)
_PLAIN = {"Accept-Encoding": "identity"}
_LEAST_REQUEST_SECONDS = 7200.0
_SPARE_SECONDS = 60.0
_NEVER_SECONDS = "86400"

# smg asks workers what they are, with a key that it then adds to requests that bring none: it is told instead.
_KIND = {"runtime_type": "sglang", "connection_mode": "http", "worker_type": "regular"}


@dataclass(frozen=True)
class Member:
    """A worker that the router should have.

    Attributes:
        id: ours, by which it is taken out.
        url: where it is.
        is_healthy: whether it gets requests, as the router said last.
        worker_id: of the process there, if it has said; ids of its spoken answers carry it.
    """

    id: str
    url: str
    is_healthy: bool
    worker_id: str | None


class Router:
    """The router, whichever process it is now, and the workers that it should have.

    Attributes:
        members: its workers, those included that it has not reached yet.
        awaited: workers that are being started.
    """

    def __init__(self, session: aiohttp.ClientSession, routing: str, api_key: str | None) -> None:
        """Take what to ask with, how to choose, and the workers' key."""
        self._routing = routing
        self.members: list[Member] = []
        self.awaited = 0
        self.url = ""
        self._metrics_url = ""
        self._session = session
        self._workers_key = _PLAIN | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
        self._key = secrets.token_hex()
        self._admin = _PLAIN | {"Authorization": f"Bearer {self._key}"}
        self._more: dict[str, dict[str, Any]] = {}
        self._changed = asyncio.Event()

    def start(self, request_seconds: float, log_format: str) -> subprocess.Popen[bytes]:
        """A new process for the router, on ports of its own; it does not outlive this one."""
        port, metrics_port = free_port(), free_port()
        self.url, self._metrics_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{metrics_port}"
        command = [sys.executable, "-m", "sglang_speechlm.fleet.router_process"]
        command += ["--host", "127.0.0.1", "--port", f"{port}"]
        command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", f"{metrics_port}"]
        command += ["--policy", self._routing, "--log-level", "warn"]
        command += ["--request-timeout-secs", f"{_router_seconds(request_seconds)}"]
        command += ["--max-payload-size", f"{ROUTER_MAX_BYTES}"]
        # A request that is sent again is generated again, and one that ends a worker would end the next.
        command += ["--disable-retries"]
        # A full queue's 503 is no failure, and workers bound what they take.
        command += ["--disable-circuit-breaker", "--max-concurrent-requests", "0"]
        # An answer that is not streamed gives no sign for minutes.
        command += ["--worker-wedge-secs", _NEVER_SECONDS]
        command += ["--sse-keepalive-secs", "0"]  # comments in streams
        command += ["--health-check-interval-secs", "5", "--health-check-timeout-secs", "20"]
        command += ["--health-success-threshold", "1", "--worker-startup-check-interval", "1"]
        if log_format == "json":
            command.append("--log-json")
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=partial(end_with_parent, signal.SIGKILL),  # it has nothing to save
            # A proxy for others is none for workers.
            env={**os.environ, KEY_VARIABLE: self._key, "NO_PROXY": "*", "no_proxy": "*"},
        )

    def want(self, url: str, more: Mapping[str, Any] | None = None) -> Member:
        """Have it route to a worker; ``more`` is the operator's own for smg's POST /workers."""
        self.drop(url)
        member = Member(secrets.token_hex(8), url, False, None)
        self.members.append(member)
        self._more[url] = dict(more or {})
        return member

    def drop(self, url: str) -> None:
        """Have it route to a worker no more."""
        self._more.pop(url, None)
        self.members = [member for member in self.members if member.url != url]
        self._changed.set()

    @property
    def passes_bytes(self) -> bool:
        """Whether it looks into no request."""
        return self._routing == "round_robin"

    @property
    def total(self) -> int:
        """How many workers it should have, once those that are being started are ready."""
        return len(self.members) + self.awaited

    def healthy(self) -> list[Member]:
        """The workers that get requests."""
        return [member for member in self.members if member.is_healthy]

    async def metrics(self) -> tuple[str, dict[str, str]]:
        """The router's page, and every worker's by its URL; those that give none are left out."""
        urls = [member.url for member in self.members]
        router, *pages = await asyncio.gather(
            self._page(self._metrics_url, _PLAIN), *(self._page(url, self._workers_key) for url in urls)
        )
        return router, {url: page for url, page in zip(urls, pages, strict=True) if page}

    async def follow(self) -> None:
        """Keep its list of workers as it should be, and ours as it is, for ever."""
        while True:
            try:
                await self._compare()
            except (aiohttp.ClientError, TimeoutError) as error:
                logger.debug("The router does not answer: %s", error)
            try:
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._changed.wait()
                self._changed.clear()
            except TimeoutError:
                pass

    async def _compare(self) -> None:
        async with self._session.get(f"{self.url}/workers", headers=self._admin, timeout=_ASK) as response:
            response.raise_for_status()
            listed: list[dict[str, Any]] = (await response.json())["workers"]
        by_url = {worker["url"]: worker for worker in listed}
        for url, worker in by_url.items():
            if url not in self._more:
                await self._control("DELETE", f"/workers/{worker['id']}")
        await asyncio.gather(*(self._introduce(url) for url in self._more.keys() - by_url.keys()))
        before = {member.url for member in self.healthy()}
        # A router that has been started again has not heard yet of what it had.
        healthy = {url for url in self._more if (by_url[url]["is_healthy"] if url in by_url else url in before)}
        ids = dict(zip(healthy, await asyncio.gather(*map(self._worker_id, healthy)), strict=True))
        self.members = [
            replace(member, is_healthy=member.url in healthy, worker_id=ids.get(member.url)) for member in self.members
        ]

    async def _introduce(self, url: str) -> None:
        models = await self._asked(f"{url}/v1/models", "data")
        if not isinstance(models, list):  # not there yet
            return
        names = [{"id": model["id"]} for model in models if isinstance(model, dict) and "id" in model]
        told = {**_KIND, "models": names, **self._more.get(url, {}), "url": url}
        status, said = await self._control("POST", "/workers", told)
        if status >= 300 and status != 409:
            logger.error("The router refuses the worker %s: %d %s", url, status, said.decode(errors="replace"))

    async def _control(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """The status and JSON that its control plane answers with."""
        async with self._session.request(
            method, f"{self.url}{path}", json=body, headers=self._admin, timeout=_ASK
        ) as response:
            return response.status, await response.read()

    async def _worker_id(self, url: str) -> str | None:
        return await self._asked(f"{url}/worker_id", "worker_id")

    async def _asked(self, url: str, field: str) -> Any:
        """A field of the JSON that a worker answers with; None if there is none, whatever answers there."""
        try:
            async with self._session.get(url, headers=self._workers_key, timeout=_ASK) as response:
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
    """More than the workers give a request, so that it is they who tell the client."""
    return int(max(_LEAST_REQUEST_SECONDS, request_seconds + _SPARE_SECONDS))
