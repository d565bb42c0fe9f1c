"""With a key, no route but /health answers without it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from sglang_speechlm.server.edge.errors import ApiError

_OPEN = "/health"
_SECRETS = ("api_key", "admin_api_key", "ssl_keyfile_password")
"""Options of SGLang's."""


class KeyCheck:
    """Around the whole application: SGLang's own check leaves metrics and the longer health checks open.

    A browser's question whether it may ask at all (CORS) carries no key and reaches no route, so it passes.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        """Wrap an application; any of ``keys`` opens it."""
        self._app = app
        self._expected = [f"bearer {key}".encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == _OPEN or self._is_admitted(Request(scope)):
            await self._app(scope, receive, send)
        else:
            await ApiError(401, "the API key is missing or wrong: Authorization: Bearer KEY").response()(
                scope, receive, send
            )

    def _is_admitted(self, request: Request) -> bool:
        if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
            return True
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        given = f"{scheme.lower()} {key.strip()}".encode()
        return any(secrets.compare_digest(given, expected) for expected in self._expected)


def without_secrets(value: Any) -> Any:
    """What JSON can hold, with the values of SGLang's secret options masked wherever they stand in it."""
    if isinstance(value, dict):
        return {name: "***" if name in _SECRETS and part else without_secrets(part) for name, part in value.items()}
    if isinstance(value, list):
        return [without_secrets(part) for part in value]
    return value
