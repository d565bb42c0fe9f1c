"""How much one request may bring."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sglang_speechlm.server.edge.errors import ApiError


class BodyLimit:
    """Refuses a body once it is known to be too large: by what it declares, else when that much of it has come."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        """Wrap an application; ``max_bytes`` is what a body may have."""
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Request(scope).headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            await self._refusal().response()(scope, receive, send)
            return
        come = 0

        async def counted() -> Message:
            nonlocal come
            message = await receive()
            come += len(message.get("body", b""))
            if come > self._max_bytes:
                raise self._refusal()
            return message

        async def refusing(message: Message) -> None:
            # Whatever a route makes of the exception above, this is the answer.
            if come <= self._max_bytes:
                await send(message)
            elif message["type"] == "http.response.start":
                await self._refusal().response()(scope, receive, send)

        await self._app(scope, counted, refusing)

    def _refusal(self) -> ApiError:
        return ApiError(413, f"the body must not exceed {self._max_bytes} bytes")
