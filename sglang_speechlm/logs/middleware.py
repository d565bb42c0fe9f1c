"""Logs a line per request, and puts the request's id into the response."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sglang_speechlm.logs.entry import Entry, begin
from sglang_speechlm.logs.ids import REQUEST_ID_HEADER, request_id, trace_headers
from sglang_speechlm.logs.lines import FIELDS

logger = logging.getLogger("sglang_speechlm.requests")

PROBES = ("/health", "/readiness", "/metrics", "/worker_id")
"""Polled every few seconds; logged only if the status is neither 200 nor 503 (not ready)."""

_LONGEST_PATH = 200
_LONGEST_METHOD = 20


class RequestLog:
    """Middleware around the whole application, so that refused requests get an id and a line, too."""

    def __init__(self, app: ASGIApp, quiet: Sequence[str] = ()) -> None:
        """Wrap an application; paths that begin with one of ``quiet`` are treated like probes."""
        self._app = app
        self._quiet = (*PROBES, *quiet)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        entry = Entry(request_id(headers), trace_headers(headers))
        begin(entry)
        started = time.monotonic()
        status = 500  # the server's response if the application sends none

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = entry.request_id
            await send(message)

        try:
            await self._app(scope, receive, stamped)
        finally:
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            if status not in (200, 503) or not path.startswith(self._quiet):
                _write(scope, status, time.monotonic() - started, entry)


def _write(scope: Scope, status: int, seconds: float, entry: Entry) -> None:
    # As sent: percent-encoded, and so on one line, and without the query.
    path = scope.get("raw_path", b"").decode("ascii", "replace")[:_LONGEST_PATH]
    fields: dict[str, Any] = {
        "request_id": entry.request_id,
        "method": scope["method"][:_LONGEST_METHOD],
        "route": path,
        "status": status,
        "seconds": round(seconds, 3),
        **entry.fields(),
    }
    shown = " ".join(f"{name}={value}" for name, value in fields.items())
    logger.info("request %s", shown, extra={FIELDS: fields})
