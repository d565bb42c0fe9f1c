"""Who may ask for what: one check for a server, for the front of a fleet, and for the routes of administration."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from sglang_speechlm.server.edge.errors import ApiError
from sglang_speechlm.server.edge.target import route_of

ADMIN_ROUTES = ("/flush_cache", "/abort_request", "/workers")
"""What changes a server for all of its clients; ``/workers/ID`` as well."""

_OPEN = "/health"
_SECRETS = ("api_key", "admin_api_key", "ssl_keyfile_password")
"""Options of SGLang's."""


@dataclass(frozen=True)
class Keys:
    """The keys that an operator gave; None where there is none.

    Attributes:
        user: opens all routes, but for ``ADMIN_ROUTES`` where there is an admin key.
        admin: opens all routes.
    """

    user: str | None = None
    admin: str | None = None

    def __bool__(self) -> bool:
        """Whether there is any key."""
        return bool(self.user or self.admin)

    def refusal(self, path: str, authorization: Sequence[str]) -> ApiError | None:
        """Why a request is not answered: a 401, or a 403 where the key is one that does not open this route.

        Args:
            path: of the request, in its one spelling.
            authorization: values of all its headers of this name.
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
            return ApiError(403, f"{path}: takes the {name}, not the API key")
        return ApiError(401, f"the {name} is wrong")


class KeyCheck:
    """Around an application: with a key, no route but /health answers without it."""

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
    """What JSON can hold, with the values of SGLang's secret options masked wherever they stand in it."""
    if isinstance(value, dict):
        return {name: "***" if name in _SECRETS and part else without_secrets(part) for name, part in value.items()}
    if isinstance(value, list):
        return [without_secrets(part) for part in value]
    return value


def _is_one_of(given: str, keys: Sequence[str]) -> bool:
    return any(secrets.compare_digest(given.encode(), key.encode()) for key in keys)
