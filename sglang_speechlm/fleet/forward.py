"""Forward one request and its response as they arrive."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send
from yarl import URL

from sglang_speechlm import logs
from sglang_speechlm.fleet.events import EventRelay
from sglang_speechlm.server.edge.connection import ClientGone
from sglang_speechlm.server.edge.errors import ApiError
from sglang_speechlm.server.edge.sse import DONE, event, is_stream

logger = logging.getLogger(__name__)

_PASSED = frozenset(
    (
        "accept", "authorization", "baggage", "content-encoding", "content-length", "content-type", "if-modified-since",
        "if-none-match", "if-range", "range", "traceparent", "tracestate", "user-agent",
    )
)  # fmt: skip
"""Request headers that a worker may read. No other is forwarded, so that clients cannot control the router, and none of
these is dropped because ``Connection`` names it."""
_NOT_PASSED_BACK = frozenset(
    (
        # RFC 9110, 7.6.1; and headers that are replaced: the front's own request does not come from a page.
        "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
        "date", "server", "vary", logs.REQUEST_ID_HEADER,
    )
)  # fmt: skip
_VIA = f"1.1 speechlm-{secrets.token_hex(8)}"
"""This process in the header ``Via`` (RFC 9110, 7.6.3)."""
_ROUTERS = "x-smg-"
_ROUTERS_ERROR = "x-smg-error-code"
_ROUTED_TO = "x-smg-routed-worker-id"
_NOT_REACHED = "call_upstream_connection_failed"
_SLICE_BYTES = 1 << 18
_CONNECT_SECONDS = 5.0


class NotReached(Exception):
    """Nothing listens at the address; no part of the request has been sent."""


class RouterRefused(NotReached):
    """The router itself refused a request, which a worker may still accept."""


class Upload:
    """An incoming request body, followed by the client's disconnection."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._is_complete = asyncio.Event()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives.

        Raises:
            ClientGone: if it remains incomplete.
        """
        while not self._is_complete.is_set():
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            if not message.get("more_body", False):
                self._is_complete.set()
            if piece := message.get("body", b""):
                yield piece

    async def whole(self) -> bytearray:
        """Return the complete body.

        Raises:
            ClientGone: if it remains incomplete.
        """
        body = bytearray()
        async for piece in self.pieces():
            body += piece
        return body

    async def client_left(self) -> None:
        """Return when the client disconnects after its body."""
        await self._is_complete.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


class Answer:
    """A response in progress; keeps track of what was sent, so that the client can recognise a failure."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._is_stream = False
        self.has_begun = False

    async def send(self, message: Message) -> None:
        """Send a part of the response."""
        if message["type"] == "http.response.start":
            self.has_begun = True
            self._is_stream = is_stream(Headers(raw=message["headers"]))
        await self._send(message)

    async def fail(self, error: ApiError, scope: Scope, receive: Receive) -> None:
        """Send an error, as the response or as the last event of a stream.

        Any other response that has begun is left incomplete; then the HTTP server closes the connection.
        """
        if not self.has_begun:
            await error.response()(scope, receive, self.send)
        elif self._is_stream:
            await self._send({"type": "http.response.body", "body": event(error.body()) + DONE, "more_body": False})


async def _slices(body: bytearray) -> AsyncIterator[memoryview]:
    """Yield a complete body in pieces, without copying it."""
    view = memoryview(body)
    for begin in range(0, len(view), _SLICE_BYTES):
        yield view[begin : begin + _SLICE_BYTES]


def new_session() -> aiohttp.ClientSession:
    """Return a session for connections to workers and the router.

    Each connection is used once: the other side might close a kept one at the moment when a request is sent.
    """
    return aiohttp.ClientSession(
        headers={"Via": _VIA},
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    )


async def forward(
    session: aiohttp.ClientSession,
    base: str,
    scope: Scope,
    body: Upload | bytearray | None,
    answer: Answer,
    *,
    routed: bool = False,
) -> None:
    """Forward a request to a server, and its response to the client.

    Args:
        session: from ``new_session``.
        base: the server's URL.
        scope: the request's scope.
        body: its body, incoming or complete; None without one.
        answer: receives the response.
        routed: whether the server is the router, whose own refusals are not a worker's.

    Raises:
        NotReached: if nothing listens at the address; ``RouterRefused`` if the router itself refused the request.
        ApiError: 502 if the server broke off, even after the response had begun; 508 if the request comes from here.
    """
    url = address(base, scope)
    headers = _passed_on(scope)
    data: AsyncIterator[Any] | None = None
    if isinstance(body, bytearray):
        # smg forwards a body without reading it only if it has a Content-Length.
        headers = [(name, value) for name, value in headers if name != "content-length"]
        headers.append(("content-length", f"{len(body)}"))
        data = _slices(body)
    elif body is not None:
        data = body.pieces()
    else:
        headers = [(name, value) for name, value in headers if not name.startswith("content-")]
    try:
        response = await session.request(
            scope["method"],
            url,
            headers=headers,
            data=data,
            allow_redirects=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
        )
    except aiohttp.ClientConnectorError as error:
        raise NotReached(str(error)) from error
    except aiohttp.ClientError as error:
        raise broken_off() from error
    async with response:
        code = response.headers.get(_ROUTERS_ERROR)
        if (response.status >= 500 and code) or (response.status >= 400 and routed and _is_its_own(response)):
            level = logging.WARNING if response.status >= 500 else logging.DEBUG
            logger.log(level, "Request %s: error from the router: %s", logs.current_id(), await _text(response))
            if response.status < 500:
                raise RouterRefused(f"the router: {code or response.status}")
            if code == _NOT_REACHED:
                raise NotReached(f"the router: {code}")
            raise broken_off(504 if response.status == 504 else 502)
        await _pass_back(response, answer)


def broken_off(status: int = 502) -> ApiError:
    """Return the error for a request whose worker is gone."""
    reason = "did not answer in time" if status == 504 else "ended before its answer was complete"
    return ApiError(status, f"the worker that had this request {reason}; send the request again", code="worker_lost")


def unreachable() -> ApiError:
    """Return the error for a request that no worker can take now."""
    return ApiError(503, "no worker can take this request now; send the request again", code="no_worker", retry_after=1)


def address(base: str, scope: Scope) -> URL:
    """Return the URL of a request on a server of the fleet: the server's scheme, host and port, and the request's
    target.

    Args:
        base: the server's URL.
        scope: the request's scope.

    Raises:
        ApiError: 400 if the target would lead anywhere else.
    """
    server = URL(base)
    path, query = (scope[part].decode("ascii") for part in ("raw_path", "query_string"))
    # Built from parts, and parsed again like the HTTP client might: the target must not leak into the authority.
    url = URL.build(scheme=server.scheme, authority=server.raw_authority, path=path, query_string=query, encoded=True)
    if not path.startswith("/") or URL(str(url), encoded=True).raw_authority != server.raw_authority:
        raise ApiError(400, f"the request target must be a path, as in GET /v1/models; got {path[:80]!r}")
    return url


def _passed_on(scope: Scope) -> list[tuple[str, str]]:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    passed_by = [value for name, value in headers if name == "via"]
    if _VIA in ", ".join(passed_by):
        raise ApiError(508, "request loop: a worker's URL leads back to this server")
    passed = [(name, value) for name, value in headers if name in _PASSED]
    return [*passed, ("via", ", ".join([*passed_by, _VIA])), (logs.REQUEST_ID_HEADER, logs.current_id() or "")]


def _is_its_own(response: aiohttp.ClientResponse) -> bool:
    return _ROUTED_TO not in response.headers


async def _text(response: aiohttp.ClientResponse) -> str:
    try:
        return (await response.text(errors="replace"))[:500]
    except aiohttp.ClientError as error:
        return str(error)


async def _pass_back(response: aiohttp.ClientResponse, answer: Answer) -> None:
    raw = [(name.lower(), value) for name, value in response.raw_headers]
    passed = [(name, value) for name, value in raw if _is_passed_back(name.decode("latin-1"))]
    relay = EventRelay() if is_stream(Headers(raw=raw)) else None
    await answer.send({"type": "http.response.start", "status": response.status, "headers": passed})
    try:
        async for piece in response.content.iter_any():
            if given := piece if relay is None else relay.take(piece):
                await answer.send({"type": "http.response.body", "body": given, "more_body": True})
    except aiohttp.ClientError as error:
        raise broken_off() from error
    if relay is not None and not relay.is_complete:
        raise broken_off()
    rest = b"" if relay is None else relay.rest()
    await answer.send({"type": "http.response.body", "body": rest, "more_body": False})


def _is_passed_back(name: str) -> bool:
    return name not in _NOT_PASSED_BACK and not name.startswith(_ROUTERS)
