"""A request's body: JSON or a form, and checked before anything is done for it."""

from __future__ import annotations

import asyncio
import codecs
import sys
from typing import TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from sglang_speechlm.server.edge.errors import ApiError, from_validation

Body = TypeVar("Body", bound=BaseModel)

_MAX_VALUES = 100_000
"""What a body may hold: several times the positions of a context."""

_SLICE = 1 << 20
_SMALL_BYTES = 64 << 10
_PARSING = asyncio.Semaphore(2)
"""Larger bodies are parsed so many at a time: that takes memory, and keeps other threads waiting."""

_MAX_FIELDS = 100
_MAX_FIELD_BYTES = 1 << 20


async def read_json(http: Request, kind: type[Body]) -> Body:
    """The body of a request.

    Raises:
        ApiError: 415, 413, or 400 naming the field that is wrong.
    """
    check_media_type(http, "application/json")
    # Not http.body(), which keeps the bytes as long as the request.
    raw = b"".join([chunk async for chunk in http.stream()])
    if len(raw) <= _SMALL_BYTES:
        return await asyncio.to_thread(_parse, raw, kind)
    async with _PARSING:
        return await asyncio.to_thread(_parse, raw, kind)


async def read_form(http: Request) -> FormData:
    """The fields of a multipart form with one file, which stays in memory.

    Raises:
        ApiError: 415, or 400 saying what is wrong with it.
    """
    check_media_type(http, "multipart/form-data")
    parser = _InMemory(http.headers, http.stream(), max_files=1, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES)
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise ApiError(400, f"the form cannot be read: {error.message}") from error
    except UnicodeError as error:  # of a charset that decodes nothing
        raise ApiError(400, f"the form cannot be read: {error}") from error


class _InMemory(MultiPartParser):
    spool_max_size = sys.maxsize  # what a body may have is bounded already


def check_media_type(http: Request, expected: str) -> None:
    """A page in a browser may send some other types to a server on its user's machine without asking it first.

    Raises:
        ApiError: 415 if the body is not of the type that it should be.
    """
    media_type = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != expected:
        raise ApiError(415, f"Content-Type: must be {expected}; got {media_type or 'none'!r}")


def _parse(raw: bytes, kind: type[Body]) -> Body:
    _check_count(raw)
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


def _check_count(raw: bytes) -> None:
    """Refuse what would take long to parse, or much memory, though it has few bytes.

    Every value but the first follows a comma or an opening bracket; those inside of texts are counted as well.

    Raises:
        ApiError: 413.
    """
    values = 0
    for start in range(0, len(raw), _SLICE):
        values += sum(raw.count(mark, start, start + _SLICE) for mark in b",[{")
        if values > _MAX_VALUES:
            raise ApiError(413, f"the body must not hold more than {_MAX_VALUES} values (commas and opening brackets)")
