"""Warnings: what was not read, heard or used of a request that was answered all the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request

WARNINGS_HEADER = "X-SpeechLM-Warnings"
"""Of every answer that has warnings: a JSON list of strings in ASCII (other characters escaped, as JSON does)."""

_MOST = 100
_LONGEST = 500
_LONGEST_HEADER = 2000
"""Characters: common proxies buffer 4 kB for all headers of an answer."""


class Warnings:
    """The warnings of one request, in order and once each; bounded in number and length.

    Answers that are JSON, and streams of JSON, hold them under ``speechlm.warnings`` as well. The header of a stream
    holds those that were known before its first byte.
    """

    def __init__(self) -> None:
        self._texts: list[str] = []

    @classmethod
    def of(cls, http: Request) -> Warnings:
        """The warnings of a request; ``route`` puts them into the header of its answer."""
        if not hasattr(http.state, "warnings"):
            http.state.warnings = cls()
        warnings: Warnings = http.state.warnings
        return warnings

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def add(self, *texts: str) -> None:
        """Add sentences. Each names the field that it is about, where there is one."""
        for text in texts:
            text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
            if text not in self._texts and len(self._texts) < _MOST:
                self._texts.append(text)

    def member(self) -> dict[str, Any]:
        """``speechlm`` for an answer in JSON; nothing where there is no warning."""
        return {"speechlm": {"warnings": list(self)}} if self._texts else {}

    def headers(self) -> dict[str, str]:
        """The header; nothing where there is no warning. What has no room is counted in a last string."""
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
