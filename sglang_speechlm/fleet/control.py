"""Add and remove workers while the fleet runs: GET and POST /workers, DELETE /workers/{id}.

A worker that is added receives other clients' requests, so this requires the admin key or, without one, the API key.
Without any key, only programs on this machine are allowed: no pages in browsers and no proxies, both of which identify
themselves in headers.
"""

from __future__ import annotations

import ipaddress
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from sglang_speechlm.fleet.router import Member, Router
from sglang_speechlm.options.fleet import checked_url
from sglang_speechlm.server.edge.body import check_media_type
from sglang_speechlm.server.edge.errors import ApiError, bad_field, method_not_allowed
from sglang_speechlm.server.edge.names import parse

_MAX_BYTES = 1 << 16
_FOREIGN_HEADERS = ("forwarded", "via", "x-forwarded-for", "x-real-ip", "origin", "referer", "sec-fetch-site")
"""Request headers of proxies and of browsers."""
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


class Control:
    """The control plane's routes."""

    def __init__(self, router: Router, has_key: bool) -> None:
        """Take the router, and whether requests that get this far have shown a key for these routes."""
        self._router = router
        self._has_key = has_key

    async def answer(self, http: Request, path: str) -> Response:
        """Return the response to a request for ``/workers`` or ``/workers/ID``.

        Raises:
            ApiError: 403 if its sender is not allowed; 400, 404, 405, 413 and 415 if it is invalid.
        """
        worker_id = path.removeprefix("/workers").removeprefix("/")
        match http.method, bool(worker_id):
            case ("GET", False):
                return _json_response(200, {"workers": [_shown(member) for member in self._router.members]})
            case ("POST", False):
                self._check(http)
                return await self._add(http)
            case ("DELETE", True):
                self._check(http)
                return self._remove(worker_id)
        raise method_not_allowed(http.method, path, ["DELETE"] if worker_id else ["GET", "POST"])

    def _check(self, http: Request) -> None:
        if not self._has_key and not _is_local_program(http):
            raise ApiError(
                403,
                "/workers: without --admin-api-key or --api-key, only programs on this machine may change the workers",
            )

    async def _add(self, http: Request) -> Response:
        check_media_type(http, "application/json")
        raw = await http.body()
        if len(raw) > _MAX_BYTES:
            raise ApiError(413, f"the body must not exceed {_MAX_BYTES} bytes")
        try:
            fields = parse(raw)
        except orjson.JSONDecodeError as error:
            raise ApiError(400, f"the body is not JSON: {error}") from error
        url = fields.get("url") if isinstance(fields, dict) else None
        if not isinstance(url, str):
            raise bad_field("url", "must be the worker's address, http(s)://HOST:PORT")
        try:
            url = checked_url(url)
        except ValueError as error:
            raise bad_field("url", str(error)) from error
        return _json_response(
            202, _shown(self._router.add(url, {name: fields[name] for name in fields if name != "url"}))
        )

    def _remove(self, worker_id: str) -> Response:
        member = next((member for member in self._router.members if member.id == worker_id), None)
        if member is None:
            raise ApiError(404, f"unknown worker {worker_id[:100]!r}; GET /workers lists the known ones")
        self._router.remove(member.url)
        return _json_response(202, _shown(member))


def _shown(member: Member) -> dict[str, Any]:
    return {"id": member.id, "url": member.url, "is_healthy": member.is_healthy}


def _json_response(status: int, content: Any) -> Response:
    return Response(orjson.dumps(content), status_code=status, media_type="application/json")


def _is_local_program(http: Request) -> bool:
    """Whether a program on this machine sent a request, rather than a proxy or a page in a browser."""
    try:
        is_loopback = http.client is not None and ipaddress.ip_address(http.client.host).is_loopback
    except ValueError:
        return False
    host = http.headers.get("host", "")
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    return is_loopback and name in _LOOPBACK_NAMES and not any(header in http.headers for header in _FOREIGN_HEADERS)
