"""Read a request's body, JSON or a form, and validate it before anything else is done."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from sglang_speechlm.server.edge.errors import ApiError, from_validation, shown
from sglang_speechlm.server.edge.limits import hold
from sglang_speechlm.server.edge.names import parse

Body = TypeVar("Body", bound=BaseModel)

_MOST = {"values": (b",[{", 100_000, 64), "objects": (b"{", 10_000, 1500), "names of fields": (b":", 25_000, 100)}
"""Limits on the content of a body: marks to count, their maximum, and the memory that one may take, in bytes, however
few it has in the body. Values: several times the positions of a context."""

_SLICE = 1 << 20
_SMALL_BYTES = 64 << 10
_PARSING = asyncio.Semaphore(2)
"""Limits how many large bodies are parsed at a time, which takes memory and blocks other threads."""

_CHARSETS = ("utf-8", "utf8", "us-ascii")
_PLAIN = (b"binary", b"8bit", b"7bit", b"identity")
"""Encodings of a form's part that leave its bytes as they are."""
_PART_CHARSETS = (*_CHARSETS, "iso-8859-1", "windows-1252")
"""Charsets of a form's part that agree about ASCII; some clients name one of the last two, whatever they send."""
_MAX_FIELDS = 100
_MAX_FIELD_BYTES = 1 << 20


async def read_json(http: Request, kind: type[Body]) -> Body:
    """Return the body of a request.

    Raises:
        ApiError: 415, 413, or 400 with the field at fault.
    """
    check_media_type(http, "application/json")
    # Neither http.body(), which keeps the bytes for the lifetime of the request, nor a list of pieces to be joined.
    raw = bytearray()
    async for piece in http.stream():
        raw += piece
    if len(raw) <= _SMALL_BYTES:
        hold(http, weigh(raw))
        return await asyncio.to_thread(_parse, raw, kind)
    async with _PARSING:
        hold(http, await asyncio.to_thread(weigh, raw))
        return await asyncio.to_thread(_parse, raw, kind)


async def read_form(http: Request) -> FormData:
    """Return the fields of a multipart form with one file, which stays in memory.

    Raises:
        ApiError: 415, or 400 with the reason.
    """
    check_media_type(http, "multipart/form-data")
    _check_charset(http)
    parser = _InMemory(http.headers, http.stream(), max_files=1, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES)
    try:
        form = await parser.parse()
        if not parser.is_complete:
            await form.close()
            raise MultiPartException("its end is missing: it must end with its boundary and '--'")
    except MultiPartException as error:
        raise ApiError(400, f"invalid form: {error.message}") from error
    return form


class _InMemory(MultiPartParser):
    """Keeps a form in memory. Refuses parts that would not be read as their sender meant them."""

    spool_max_size = sys.maxsize  # the size of a body is bounded already
    is_complete = False

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        part = self._current_part
        for name, value in part.item_headers:
            if name in (b"content-transfer-encoding", b"content-encoding") and value.strip().lower() not in _PLAIN:
                raise _bad_part(part.field_name, f"{name.decode().title()} must be left out", value)
            charset = parse_options_header(value)[1].get(b"charset", b"utf-8") if name == b"content-type" else b"utf-8"
            if part.file is None and charset.decode("latin-1").lower() not in _PART_CHARSETS:
                raise _bad_part(part.field_name, "charset must be utf-8", charset)

    def on_part_end(self) -> None:
        if self._current_part.file is None and (reason := _not_utf8(self._current_part.data)):
            raise MultiPartException(f"{shown(self._current_part.field_name)} has no filename, so {reason}")
        super().on_part_end()

    def on_end(self) -> None:
        self.is_complete = True


def _bad_part(name: str, rule: str, value: bytes) -> MultiPartException:
    return MultiPartException(f"{shown(name)}: {rule}; got {shown(value.decode('latin-1'))}")


def check_media_type(http: Request, expected: str) -> None:
    """Check the media type: a page in a browser may send some other types to a local server without a preflight.

    Raises:
        ApiError: 415 if the body is not of the expected type.
    """
    media_type = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != expected:
        raise ApiError(415, f"Content-Type: must be {expected}; got {media_type or 'none'!r}")


def _check_charset(http: Request) -> None:
    """Refuse other charsets: some of Python's codecs take minutes for a megabyte (punycode).

    Raises:
        ApiError: 415 if a form's texts are not in UTF-8.
    """
    _, parameters = parse_options_header(http.headers["content-type"])
    charset = parameters.get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in _CHARSETS:
        raise ApiError(415, f"Content-Type: charset must be utf-8; got {shown(charset)}")


def _parse(raw: bytes | bytearray, kind: type[Body]) -> Body:
    if not (encoding := json.detect_encoding(raw)).startswith("utf-8"):
        raise ApiError(400, f"the body must be JSON in UTF-8; it looks like {encoding.upper()}")
    try:
        fields = parse(raw)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"the body is not JSON: {_not_utf8(raw) or error}") from error
    if not isinstance(fields, dict):
        raise ApiError(400, f"the body must be a JSON object; got {shown(fields)}")
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error, fields) from error


def _not_utf8(raw: bytes | bytearray) -> str | None:
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return f"it must be UTF-8; its byte {error.start} is not"
    return None


def weigh(raw: bytes | bytearray) -> int:
    """Return the bytes of memory that JSON may take once it is parsed.

    Every value but the first follows a comma or an opening bracket; marks inside strings are counted, too.

    Raises:
        ApiError: 413 for JSON that would take long to parse, or much memory, though it has few bytes.
    """
    counts = dict.fromkeys(_MOST, 0)
    for start in range(0, len(raw), _SLICE):
        for what, (marks, most, _) in _MOST.items():
            counts[what] += sum(raw.count(mark, start, start + _SLICE) for mark in marks)
            if counts[what] > most:
                counted = " ".join(marks.decode())
                raise ApiError(413, f"the body must not contain more than {most} {what} (counted by {counted})")
    return sum(counts[what] * size for what, (_, _, size) in _MOST.items())
