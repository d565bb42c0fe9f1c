"""Warnings about the parts of an answered request that were not read, heard or used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request

WARNINGS_HEADER = "X-SpeechLM-Warnings"
"""Header of every response with warnings: a JSON list of strings in ASCII, with other characters escaped."""

_MOST = 100
_LONGEST = 500
_LONGEST_HEADER = 2000
"""Maximum characters; common proxies buffer 4 kB for all headers of a response."""


class Warnings:
    """The warnings of one request, in order and without duplicates; bounded in number and length.

    JSON responses and streams of JSON also have them under ``speechlm.warnings``. The header of a stream has those that
    were known before its first byte.
    """

    def __init__(self) -> None:
        self._texts: list[str] = []

    @classmethod
    def of(cls, http: Request) -> Warnings:
        """Return the warnings of a request; ``route`` puts them into the header of its response."""
        if not hasattr(http.state, "warnings"):
            http.state.warnings = cls()
        warnings: Warnings = http.state.warnings
        return warnings

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def add(self, *texts: str) -> None:
        """Add sentences, each of which names its field if there is one."""
        for text in texts:
            text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
            if text not in self._texts and len(self._texts) < _MOST:
                self._texts.append(text)

    def member(self) -> dict[str, Any]:
        """Return the object ``speechlm`` for a JSON response; empty without warnings."""
        return {"speechlm": {"warnings": list(self)}} if self._texts else {}

    def headers(self) -> dict[str, str]:
        """Return the header; empty without warnings. A last string counts the warnings that did not fit."""
        if not self._texts:
            return {}
        kept = list(self._texts)
        while len(value := _ascii_json([*kept, *self._rest(len(kept))])) > _LONGEST_HEADER:
            kept.pop()
        return {WARNINGS_HEADER: value}

    def _rest(self, kept: int) -> list[str]:
        left = len(self._texts) - kept
        return [f"and {left} more"] if left else []


def _ascii_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True).replace("\x7f", "\\u007f")
