"""Decide, in one place for all responses, what a browser may do and see."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sglang_speechlm.server.edge.origins import Origins

EXPOSED_HEADERS = (
    "Allow", "Retry-After", "WWW-Authenticate", "X-Audio-Sample-Rate", "X-Request-Id",
    "X-SpeechLM-Warnings",
)  # fmt: skip
"""Response headers that a page of another origin may read."""

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
        "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every response: scripts come from this server only, and no other page may embed its content."""


class Browser:
    """Middleware that refuses pages that are not allowed, answers preflights, and adds headers to every response.

    A preflight ends here: it has no key, and reaches no route.
    """

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        """Wrap an application."""
        self._origins = origins
        # A request that gets this far has an allowed origin, on any network; the route decides about the method.
        # Credentials are not allowed: the page itself sends the key.
        self._app = CORSMiddleware(
            app,
            allow_origin_regex=".*",
            allow_methods=("*",),
            allow_headers=("*",),
            allow_private_network=True,
            expose_headers=EXPOSED_HEADERS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        refusal = self._origins.refusal(Headers(scope=scope))
        await (refusal.response() if refusal else self._app)(scope, receive, protected)
