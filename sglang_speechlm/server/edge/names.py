"""Parse JSON, and refuse objects that give a name twice: parsers keep the last value and drop the others in silence."""

from __future__ import annotations

import codecs
import json
from typing import Any

import orjson

from sglang_speechlm.server.edge.errors import ApiError, bad_field

_ESCAPED_COLONS = (rb"\u003a", rb"\u003A")


def parse(raw: bytes | bytearray) -> Any:
    """Return the value of JSON text, which may begin with a byte order mark.

    Raises:
        orjson.JSONDecodeError: if it is not JSON.
        ApiError: 400 with a name that an object gives twice.
    """
    value = orjson.loads(memoryview(raw)[len(codecs.BOM_UTF8) :] if raw.startswith(codecs.BOM_UTF8) else raw)
    # orjson drops duplicates. Their colons are missing in what it returns, which is far cheaper than a second parser.
    if raw.count(b":") != _colons(value) or any(colon in raw for colon in _ESCAPED_COLONS):
        try:
            json.loads(raw, object_pairs_hook=_refuse_duplicates)
        except RecursionError:
            raise ApiError(400, "the body is nested too deeply") from None
    return value


def _colons(value: Any) -> int:
    """Return the colons of a value's JSON text: one after each name, and those in strings."""
    found = 0
    rest = [value]
    while rest:
        part = rest.pop()
        if isinstance(part, str):
            found += part.count(":")
        elif isinstance(part, list):
            rest += part
        elif isinstance(part, dict):
            found += len(part)
            rest += part
            rest += part.values()
    return found


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
    names: set[str] = set()
    for name, _ in pairs:
        if name in names:
            raise bad_field(name[:200], "must be given only once in an object")
        names.add(name)
