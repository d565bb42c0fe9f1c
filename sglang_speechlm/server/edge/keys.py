"""Keys: one check for a server and for the front of a fleet, including their administration routes."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from sglang_speechlm.server.edge.errors import ApiError
from sglang_speechlm.server.edge.target import route_of

ADMIN_ROUTES = ("/flush_cache", "/abort_request", "/workers", "/start_profile", "/stop_profile")
"""Routes that change a server for all of its clients; ``/workers/ID`` is another."""

_OPEN = "/health"
_SECRETS = ("api_key", "admin_api_key", "ssl_keyfile_password")
"""SGLang's options with secrets."""


@dataclass(frozen=True)
class Keys:
    """The operator's keys; None if not set.

    Attributes:
        user: opens all routes, except ``ADMIN_ROUTES`` if there is an admin key.
        admin: opens all routes.
    """

    user: str | None = None
    admin: str | None = None

    def __bool__(self) -> bool:
        """Whether there is any key."""
        return bool(self.user or self.admin)

    def refusal(self, path: str, authorization: Sequence[str]) -> ApiError | None:
        """Return why a request is refused: a 401, or a 403 if a valid key does not open this route; else None.

        Args:
            path: the request's canonical path.
            authorization: the values of all its Authorization headers.
        """
        is_admin = path.startswith("/workers/") or path in ADMIN_ROUTES
        if is_admin and self.admin:
            accepted = [self.admin]
        else:
            accepted = [key for key in (self.user, self.admin) if key] if self.user else []
        if not accepted or path == _OPEN:
            return None
        name = "admin key (--admin-api-key)" if is_admin and self.admin else "API key"
        if not authorization:
            return ApiError(401, f"the {name} is missing: send the header Authorization: Bearer KEY")
        scheme, _, given = authorization[0].replace("\t", " ").strip().partition(" ")
        if len(authorization) > 1 or scheme.lower() != "bearer" or not given.strip():
            return ApiError(401, "Authorization: must be sent once, as Bearer KEY")
        if _is_one_of(given.strip(), accepted):
            return None
        if self.user and _is_one_of(given.strip(), [self.user]):
            return ApiError(403, f"{path}: requires the {name}, not the API key")
        return ApiError(401, f"the {name} is wrong")


class KeyCheck:
    """Middleware that requires the key, if there is one, on all routes except /health."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        """Wrap an application."""
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            refusal = self._keys.refusal(route_of(scope), Headers(scope=scope).getlist("authorization"))
            app = refusal.response() if refusal else app
        await app(scope, receive, send)


def without_secrets(value: Any) -> Any:
    """Return a JSON-compatible value with the values of SGLang's secret options masked everywhere."""
    if isinstance(value, dict):
        return {name: "***" if name in _SECRETS and part else without_secrets(part) for name, part in value.items()}
    if isinstance(value, list):
        return [without_secrets(part) for part in value]
    return value


def _is_one_of(given: str, keys: Sequence[str]) -> bool:
    return any(secrets.compare_digest(given.encode(), key.encode()) for key in keys)
