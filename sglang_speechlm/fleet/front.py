"""The front, which owns the public port: its own answers, and where it forwards everything else."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections.abc import Coroutine, Iterator
from typing import Any

import aiohttp
import orjson
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from sglang_speechlm import logs
from sglang_speechlm.fleet.control import Control
from sglang_speechlm.fleet.forward import Answer, NotReached, RouterRefused, Upload, forward, unreachable
from sglang_speechlm.fleet.metrics import merge
from sglang_speechlm.fleet.router import Member, Router
from sglang_speechlm.server.edge.connection import ClientGone
from sglang_speechlm.server.edge.errors import ApiError, internal_error, method_not_allowed
from sglang_speechlm.server.edge.limits import WITH_BODIES

logger = logging.getLogger(__name__)

_CHAT = "/v1/chat/completions"
_ROUTED = (_CHAT, "/generate")
"""Routes that the router forwards byte for byte; it would read, and restrict, the form of a transcription."""
_FOR_ALL = ("/flush_cache", "/abort_request")
"""Routes that concern every worker."""
_READ_HERE = ("/health", "/readiness", "/metrics")
_EARLIER_AUDIO = re.compile(rb'"audio-([0-9a-f]{8})-chatcmpl-')
_AUDIO_ID_BYTES = len(b'"audio-00000000-chatcmpl-')
_SEARCHED_BYTES = 1 << 20
"""Number of bytes to search at once, which blocks all other requests."""
_PAGE = "text/plain; version=0.0.4; charset=utf-8"


class Front:
    """The front's ASGI application."""

    def __init__(self, router: Router, session: aiohttp.ClientSession, control: Control) -> None:
        """Take the router, the HTTP session, and the control plane's routes."""
        self._router = router
        self._session = session
        self._control = control
        self._turns = itertools.count()
        self._refusal: ApiError | None = ApiError(503, "the workers are still starting", retry_after=5)
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._cut = asyncio.Event()

    @property
    def running(self) -> int:
        """Number of requests that workers are answering."""
        return self._running

    def open(self) -> None:
        """Start to accept requests."""
        self._refusal = None

    def drain(self) -> None:
        """Stop accepting requests."""
        self._refusal = ApiError(503, "the server is stopping and accepts no new requests", retry_after=5)

    async def idle(self) -> None:
        """Return when no request is in progress."""
        await self._idle.wait()

    def cut(self) -> None:
        """End all requests in progress with an error."""
        self._cut.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        answer = Answer(send)
        try:
            if own := await self._own(scope, receive):
                await own(scope, receive, answer.send)
            else:
                await self._passed(scope, receive, answer)
        except ApiError as error:
            await answer.fail(error, scope, receive)
        except Exception:
            logger.exception("Request %s to %s failed", logs.current_id(), scope["path"])
            await answer.fail(internal_error(), scope, receive)

    async def _own(self, scope: Scope, receive: Receive) -> Response | None:
        """Return the response of the front's own routes; None for other routes.

        Raises:
            ApiError: if the request is refused.
        """
        path = scope["path"]
        if path == "/workers" or path.startswith("/workers/"):
            return await self._control.answer(Request(scope, receive), path)
        if path not in _READ_HERE:
            return None
        if scope["method"] != "GET":
            raise method_not_allowed(scope["method"], path, ["GET"])
        if path == "/health":
            return Response(status_code=200 if self._is_ready() else 503)
        if path == "/readiness":
            return self._readiness()
        return PlainTextResponse(await asyncio.to_thread(merge, *await self._router.metrics()), media_type=_PAGE)

    def _is_ready(self) -> bool:
        return self._refusal is None and bool(self._router.healthy())

    def _readiness(self) -> Response:
        is_ready = self._is_ready()
        content = {
            "status": "ready" if is_ready else "not ready",
            "healthy_workers": len(self._router.healthy()),
            "workers": self._router.total,
        }
        return Response(orjson.dumps(content), status_code=200 if is_ready else 503, media_type="application/json")

    async def _passed(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        """Forward a request until its client disconnects or the front is stopped.

        Raises:
            ApiError: if it cannot be answered.
        """
        if self._refusal is not None:
            raise self._refusal
        upload = Upload(receive)
        self._running += 1
        self._idle.clear()
        try:
            await self._until_over(self._route(scope, upload, answer), upload)
        except ClientGone:
            if not answer.has_begun:
                await Response(status_code=499)(scope, receive, answer.send)  # for the log
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def _until_over(self, work: Coroutine[Any, Any, None], upload: Upload) -> None:
        working = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(upload.client_left())
        cutting = asyncio.ensure_future(self._cut.wait())
        tasks = (working, leaving, cutting)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
            elif leaving.done():
                raise ClientGone
            else:
                raise ApiError(503, "the server was stopped before this answer was complete")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _route(self, scope: Scope, upload: Upload, answer: Answer) -> None:
        path = scope["path"]
        if path in _ROUTED or path in _FOR_ALL:
            body = await upload.whole()
            if path in _FOR_ALL:
                await self._to_all(scope, body, answer)
            else:
                holder = await asyncio.to_thread(self._holder, body) if path == _CHAT else None
                await self._to_one(scope, body, answer, holder)
            return
        headers = Headers(scope=scope)
        if "content-length" not in headers and "transfer-encoding" not in headers:
            await upload.whole()  # no body, then the client's disconnection
            await self._to_any(scope, None, answer)
        elif path in WITH_BODIES:
            await self._to_any(scope, upload, answer)
        else:  # nobody would read it
            await self._to_any(scope, None, answer)

    def _holder(self, body: bytearray) -> Member | None:
        """Return the worker of the last spoken answer that a chat request refers to, or None."""
        by_id = {member.worker_id: member for member in self._router.healthy() if member.worker_id}
        holder = None
        for worker_id in _workers_named(body):
            holder = by_id.get(worker_id, holder)
        return holder

    async def _to_one(self, scope: Scope, body: bytearray, answer: Answer, holder: Member | None) -> None:
        """Forward to the worker that a request refers to; else to the router, or, if that is away, to any worker."""
        url = holder.url if holder is not None else self._router.url
        try:
            if self._router.healthy() and (holder is not None or self._router.responds):
                await forward(self._session, url, scope, body, answer, routed=holder is None)
                return
        except RouterRefused:
            pass  # the router does not know the model or is stricter about the body: a worker decides
        except NotReached as error:
            logger.warning("Request %s bypasses %s: %s", logs.current_id(), url, error)
        await self._to_any(scope, body, answer)

    async def _to_any(self, scope: Scope, body: Upload | bytearray | None, answer: Answer) -> None:
        """Forward to each worker in turn; if one cannot be reached, to the next."""
        members = self._router.healthy()
        turn = next(self._turns)
        for i in range(len(members)):
            member = members[(turn + i) % len(members)]
            try:
                await forward(self._session, member.url, scope, body, answer)
                return
            except NotReached as error:
                logger.warning("Request %s: the worker %s cannot be reached: %s", logs.current_id(), member.url, error)
        raise unreachable()

    async def _to_all(self, scope: Scope, body: bytearray, answer: Answer) -> None:
        """Forward to every worker; the response is the first worker's, or that of the first one that failed."""
        members = self._router.healthy()
        if not members:
            raise unreachable()
        answers = [_Kept() for _ in members]
        outcomes = await asyncio.gather(
            *(
                forward(self._session, member.url, scope, body, Answer(kept.send))
                for member, kept in zip(members, answers, strict=True)
            ),
            return_exceptions=True,
        )
        if lost := next((outcome for outcome in outcomes if outcome is not None), None):
            raise unreachable() from lost
        failed = next((kept for kept in answers if kept.status >= 300), answers[0])
        for message in failed.messages:
            await answer.send(message)


def _workers_named(body: bytearray) -> Iterator[str]:
    """Yield the worker ids in the audio ids of earlier answers in a body, in order."""
    for begin in range(0, len(body), _SEARCHED_BYTES):
        end = begin + _SEARCHED_BYTES + _AUDIO_ID_BYTES - 1
        for found in _EARLIER_AUDIO.finditer(body, begin, end):
            if body[found.start() - 1] != ord("\\"):  # else it is part of a string
                yield found[1].decode()


class _Kept:
    """A response that is not sent yet."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    async def send(self, message: Any) -> None:
        self.messages.append(message)
