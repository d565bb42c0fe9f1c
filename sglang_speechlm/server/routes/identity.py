"""The identity of this serving process, for a front with several workers."""

from __future__ import annotations

import secrets
from functools import cache

import orjson
from starlette.requests import Request
from starlette.responses import Response


@cache
def own_id() -> str:
    """Return this process's id, which is unique per process lifetime, because kept answers die with the process.

    Ids of spoken answers contain it. It is drawn on first use, so that a copy of a process has an id of its own.
    """
    return secrets.token_hex(4)


async def worker_id(_request: Request) -> Response:
    """GET /worker_id."""
    return Response(orjson.dumps({"worker_id": own_id()}), media_type="application/json")
