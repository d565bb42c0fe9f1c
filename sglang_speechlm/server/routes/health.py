"""``GET /health``: whether this server can answer now."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from sglang_speechlm.server.edge.errors import ApiError


async def health(http: Request) -> Response:
    """Return 200 while every process of this server has a heartbeat; else a 503 that names the one that does not.

    It generates nothing, so probes may come every second; ``/health_generate`` generates a token.
    """
    state = http.app.state
    if reason := state.watch.trouble() or state.speechlm.trouble():
        return ApiError(503, reason, code="not_responding", retry_after=1).response()
    return Response()
