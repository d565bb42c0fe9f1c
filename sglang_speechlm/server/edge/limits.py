"""Limits on the size and the duration of a request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sglang_speechlm.server.edge.errors import ApiError
from sglang_speechlm.server.edge.target import route_of

logger = logging.getLogger(__name__)

_WITH_RECORDINGS = ("/v1/audio/transcriptions", "/v1/audio/translations")
"""Paths whose bodies stay in memory until the end of the answer."""
WITH_BODIES = ("/v1/chat/completions", "/v1/audio/speech", *_WITH_RECORDINGS, "/generate")
"""Paths whose bodies may be large."""
_SMALL_BYTES = 64 << 10
"""Maximum size of a body on any other path."""

_FIRST_SECONDS = 60.0
_SLOWEST_BYTES = 64 << 10
"""A body may take the first seconds, plus one second for each time this many bytes."""

_BODIES_AT_ONCE = 8
"""Maximum size of all bodies in memory together, relative to the maximum of one."""
_HOLD = "speechlm.hold"

_DEADLINE = "speechlm.deadline"
_GRACE_SECONDS = 5.0
"""Seconds after the deadline in which a response that has begun may still send its error to a reading client."""


class BodyLimit:
    """Middleware that rejects encoded, oversized or slow bodies as soon as the application reads them.

    If the application does not read the body, for example on an unknown route, its own response is sent.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        """Wrap an application; ``max_bytes`` is the limit on routes with large bodies."""
        self._app = app
        self._max_bytes = max_bytes
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._max_bytes if route_of(scope) in WITH_BODIES else min(_SMALL_BYTES, self._max_bytes)
        refused = _refusal(Headers(scope=scope), limit)
        begun = asyncio.get_running_loop().time()
        received = held = 0
        is_complete = has_begun = False
        refusal: ApiError | None = None

        def hold(size: int) -> None:
            nonlocal held, refusal
            held += size
            self._held += size
            if self._held > _BODIES_AT_ONCE * self._max_bytes:
                reason = "the server has too many large bodies in memory"
                refusal = ApiError(503, reason, retry_after=1, closes=True)
                raise refusal

        async def bounded() -> Message:
            nonlocal received, is_complete, refusal
            if is_complete or has_begun:
                return await receive()  # the client's disconnection: who answers does not read on
            if refused is not None:
                refusal = refused
                raise refused
            try:
                async with asyncio.timeout_at(begun + _FIRST_SECONDS + received / _SLOWEST_BYTES):
                    message = await receive()
            except TimeoutError:
                refusal = ApiError(408, f"the body did not arrive in time: got {received} bytes", closes=True)
                raise refusal from None
            size = len(message.get("body", b""))
            received += size
            is_complete = not message.get("more_body", False)
            if received > limit:
                refusal = _too_large(limit)
                raise refusal
            hold(size)
            return message

        async def refusing(message: Message) -> None:
            nonlocal held, has_begun
            has_begun = True
            if message["type"] == "http.response.start" and route_of(scope) not in _WITH_RECORDINGS:
                self._held -= held
                held = 0
            # Whatever a route does with the exceptions above, the refusal is the response.
            if refusal is None:
                if refused is not None and message["type"] == "http.response.start":
                    MutableHeaders(scope=message)["Connection"] = "close"
                await send(message)
            elif message["type"] == "http.response.start":
                await refusal.response()(scope, receive, send)

        try:
            await self._app({**scope, _HOLD: hold}, bounded, refusing)
        except ApiError as error:
            if error is not refusal:
                raise
            await refusal.response()(scope, receive, send)
        finally:
            self._held -= held


def hold(http: Request, size: int) -> None:
    """Count memory that a body takes in addition to its received bytes, until its answer begins.

    Raises:
        ApiError: 503 if all bodies together take too much memory.
    """
    counted: Callable[[int], None] = http.scope[_HOLD]
    counted(size)


def _refusal(headers: Headers, limit: int) -> ApiError | None:
    """Return the refusal of a body according to its headers, or None."""
    encoding = headers.get("content-encoding", "").strip()
    if encoding and encoding.lower() != "identity":
        return ApiError(415, f"Content-Encoding: must be left out or 'identity'; got {encoding!r}", closes=True)
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        return _too_large(limit)
    return None


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the body must not exceed {limit} bytes", closes=True)


class Deadline:
    """Middleware that ends a request at its timeout, whatever it waits for: its body, the scheduler or its client."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        """Wrap an application; each request may take ``seconds``."""
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        deadline = scope[_DEADLINE] = asyncio.get_running_loop().time() + self._seconds
        has_begun = False

        async def noting(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                timeout.reschedule(deadline + _GRACE_SECONDS)
            await send(message)

        try:
            async with asyncio.timeout_at(deadline) as timeout:
                await self._app(scope, receive, noting)
        except TimeoutError:
            if not timeout.expired():
                raise
            if not has_begun:
                await timeout_error().response()(scope, receive, send)
            else:
                # Without its end, the connection is closed, so clients notice that the response is incomplete.
                logger.warning("The answer to %s %s was cut off: request timeout", scope["method"], scope["path"])


def deadline_of(http: Request) -> float:
    """Return the deadline of a request in event loop time."""
    deadline: float = http.scope[_DEADLINE]
    return deadline


def timeout_error() -> ApiError:
    """Return the error for a request that timed out."""
    return ApiError(504, "the answer was not complete within the request timeout", closes=True)
