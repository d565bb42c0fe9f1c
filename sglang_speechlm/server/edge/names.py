"""Parse JSON, and refuse deep nesting, and objects that give a name twice: parsers drop all but the last value."""

from __future__ import annotations

import codecs
import json
from typing import Any

import orjson

from sglang_speechlm.server.edge.errors import ApiError, bad_field

_MOST_LEVELS = 200
"""Maximum depth of a body: orjson writes no more than 254 levels, and Python's own functions fail at about 1,000."""
_ESCAPED_COLONS = (rb"\u003a", rb"\u003A")


def parse(raw: bytes | bytearray) -> Any:
    """Return the value of JSON text, which may begin with a byte order mark.

    Raises:
        orjson.JSONDecodeError: if it is not JSON.
        ApiError: 400 if it is nested too deeply, or with a name that an object gives twice.
    """
    value = orjson.loads(memoryview(raw)[len(codecs.BOM_UTF8) :] if raw.startswith(codecs.BOM_UTF8) else raw)
    # orjson drops duplicates. Their colons are missing in what it returns, which is far cheaper than a second parser.
    levels, colons = _measure(value)
    if levels > _MOST_LEVELS:
        raise ApiError(400, f"the body must not be nested deeper than {_MOST_LEVELS} levels; it has {levels}")
    if raw.count(b":") != colons or any(colon in raw for colon in _ESCAPED_COLONS):
        json.loads(raw, object_pairs_hook=_refuse_duplicates)
    return value


def _measure(value: Any) -> tuple[int, int]:
    """Return the levels of a value and the colons of its JSON text: one after each name, and those in strings."""
    levels, colons = 0, 0
    parts = [value]
    while parts:
        inner: list[Any] = []
        for part in parts:
            if isinstance(part, str):
                colons += part.count(":")
            elif isinstance(part, list):
                inner += part
            elif isinstance(part, dict):
                colons += len(part)
                inner += part
                inner += part.values()
        levels, parts = levels + 1, inner
    return levels, colons


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
    names: set[str] = set()
    for name, _ in pairs:
        if name in names:
            raise bad_field(name[:200], "must be given only once in an object")
        names.add(name)
