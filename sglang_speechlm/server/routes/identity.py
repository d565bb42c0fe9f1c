"""The identity of this serving process, for a front with several workers."""

from __future__ import annotations

import secrets

import orjson
from starlette.requests import Request
from starlette.responses import Response

WORKER_ID = secrets.token_hex(4)
"""Unique per process lifetime, because kept answers die with the process. Ids of spoken answers contain it."""


async def worker_id(_request: Request) -> Response:
    """GET /worker_id."""
    return Response(orjson.dumps({"worker_id": WORKER_ID}), media_type="application/json")
