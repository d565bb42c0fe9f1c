"""A request's body: JSON, and checked before anything is done for it."""

from __future__ import annotations

import asyncio
import codecs
from typing import TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from sglang_speechlm.server.edge.errors import ApiError, from_validation

Body = TypeVar("Body", bound=BaseModel)


async def read_json(http: Request, kind: type[Body]) -> Body:
    """The body of a request.

    Raises:
        ApiError: 415, or 400 naming the field that is wrong.
    """
    check_media_type(http, "application/json")
    return await asyncio.to_thread(_parse, await http.body(), kind)


def check_media_type(http: Request, expected: str) -> None:
    """A page in a browser may send some other types to a server on its user's machine without asking it first.

    Raises:
        ApiError: 415 if the body is not of the type that it should be.
    """
    media_type = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != expected:
        raise ApiError(415, f"Content-Type: must be {expected}; got {media_type or 'none'!r}")


def _parse(raw: bytes, kind: type[Body]) -> Body:
    try:
        fields = orjson.loads(raw.removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ApiError(400, f"the body must be a JSON object; got {type(fields).__name__}")
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error, fields) from error
