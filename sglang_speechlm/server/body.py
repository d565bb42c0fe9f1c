"""A request's body: bounded, JSON, and checked before anything is done for it."""

from __future__ import annotations

import asyncio

import orjson
from pydantic import ValidationError
from starlette.requests import Request

from sglang_speechlm.server.errors import ApiError, from_validation
from sglang_speechlm.server.schema import ChatRequest

MAX_BODY_BYTES = 128 << 20
"""Room for some fifteen clips of half a minute at 48 kHz, in stereo."""


async def read_chat_request(http: Request) -> ChatRequest:
    """The body of a chat request.

    Raises:
        ApiError: 413, 415, or 400 naming the field that is wrong.
    """
    # A page in a browser may send any other type to a server on its user's machine without asking it first.
    media_type = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiError(415, f"Content-Type: must be application/json; got {media_type or 'none'!r}")
    return await asyncio.to_thread(_parse, await _read(http))


async def _read(http: Request) -> bytes:
    declared = http.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
        raise _too_large()
    body = bytearray()
    async for piece in http.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
    return bytes(body)


def _too_large() -> ApiError:
    return ApiError(413, f"the body must not exceed {MAX_BODY_BYTES >> 20} MiB")


def _parse(raw: bytes) -> ChatRequest:
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ApiError(400, f"the body must be a JSON object; got {type(fields).__name__}")
    try:
        return ChatRequest.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error, fields) from error
