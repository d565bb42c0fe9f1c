"""A stand-in on the loopback for the download part of the hub's HTTP API; its connections can break."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Repositories by tag.

    Attributes:
        folders: the folder of each tag.
        breaks: names of files whose next download ends half-way.
        requests: the method, path and Range of each request.
        url: the value for HF_ENDPOINT.
    """

    folders: dict[str, Path]
    breaks: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._log_request])
        for path in ("/api/models/{owner}/{name}", "/api/models/{owner}/{name}/revision/{revision}"):
            app.router.add_get(path, self._info)
        app.router.add_get("/{owner}/{name}/resolve/{revision}/{file:.*}", self._file)
        return app

    @web.middleware
    async def _log_request(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path} {request.headers.get('Range', '')}".strip())
        return await handler(request)

    def _folder(self, request: web.Request) -> Path:
        tag = f"{request.match_info['owner']}/{request.match_info['name']}"
        if tag not in self.folders:
            raise web.HTTPNotFound(headers={"X-Error-Code": "RepoNotFound"})
        if request.match_info.get("revision", "main") not in ("main", COMMIT, "v1"):
            raise web.HTTPNotFound(headers={"X-Error-Code": "RevisionNotFound"})
        return self.folders[tag]

    async def _info(self, request: web.Request) -> web.Response:
        folder = self._folder(request)
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        siblings = [{"rfilename": str(file.relative_to(folder)), "size": file.stat().st_size} for file in files]
        tag = f"{request.match_info['owner']}/{request.match_info['name']}"
        return web.json_response({"id": tag, "modelId": tag, "sha": COMMIT, "siblings": siblings})

    async def _file(self, request: web.Request) -> web.StreamResponse:
        file = self._folder(request) / request.match_info["file"]
        if not file.is_file():
            raise web.HTTPNotFound(headers={"X-Error-Code": "EntryNotFound"})
        content = file.read_bytes()
        headers = {
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        begin = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        status = 206 if "Range" in request.headers else 200
        if status == 206:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = len(content) - begin
        await response.prepare(request)
        if request.method == "GET":
            end = len(content)
            if file.name in self.breaks:
                self.breaks.discard(file.name)
                end = begin + (end - begin) // 2
            await response.write(content[begin:end])
            if end < len(content):
                assert request.transport is not None
                await asyncio.sleep(0.2)
                request.transport.close()
        return response


@contextmanager
def hub_of(folders: dict[str, Path]) -> Iterator[Hub]:
    """Yield a running stand-in."""
    hub = Hub(folders)
    started = threading.Event()
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def run() -> None:
        runner = web.AppRunner(hub.application())
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        hub.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ended = asyncio.Event()
        stop.append((asyncio.get_running_loop(), ended))
        started.set()
        await ended.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert started.wait(60)
    try:
        yield hub
    finally:
        loop, ended = stop[0]
        loop.call_soon_threadsafe(ended.set)
        thread.join()
