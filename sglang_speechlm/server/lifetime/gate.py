"""Admit requests while the server serves, and make each of them end with a response."""

from __future__ import annotations

import secrets
from functools import cache

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sglang_speechlm.server.edge.errors import ApiError
from sglang_speechlm.server.edge.sse import event, is_stream
from sglang_speechlm.server.edge.target import route_of
from sglang_speechlm.server.lifetime.life import Life

PASS_HEADER = "x-speechlm-warm-up"
_HEALTH = ("/health", "/health_generate")


@cache
def warm_up_pass() -> str:
    """Return the secret that admits the requests of the warm-up, drawn on first use in the process that serves."""
    return secrets.token_hex()


class Gate:
    """Middleware around the application. GET requests are always answered, except for the server's health."""

    def __init__(self, app: ASGIApp, life: Life) -> None:
        self._app = app
        self._life = life
        self._pass = warm_up_pass()  # before any thread might draw it at the same time

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] in ("GET", "OPTIONS") and route_of(scope) not in _HEALTH:
            await self._app(scope, receive, send)
        elif (refusal := self._life.refusal()) and Headers(scope=scope).get(PASS_HEADER) != self._pass:
            await refusal.response()(scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun: Message | None = None
        ended = False

        async def noting(message: Message) -> None:
            nonlocal begun, ended
            if message["type"] == "http.response.start":
                begun = message
            else:
                ended = not message.get("more_body", False)
            await send(message)

        try:
            await self._life.run(self._app(scope, receive, noting))
        except ApiError as error:
            if begun is None:
                await error.response()(scope, receive, send)
            elif not ended and is_stream(Headers(raw=begun["headers"])):
                await send({"type": "http.response.body", "body": event(error.body()), "more_body": False})
            # The HTTP server closes any other response that has begun before its end, which clients notice.
