"""Which serving process this is, for a front that has several of them behind it."""

from __future__ import annotations

import secrets

import orjson
from starlette.requests import Request
from starlette.responses import Response

WORKER_ID = secrets.token_hex(4)
"""Of this process and no later one: what it keeps in memory is gone with it. Ids of spoken answers carry it."""


async def worker_id(_request: Request) -> Response:
    """GET /worker_id."""
    return Response(orjson.dumps({"worker_id": WORKER_ID}), media_type="application/json")
