"""Write ``X.results.json``: the answers in the format of ESPnet's inference, for evaluation scripts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from .results import Results


class EspnetResults:
    """The answers as one object: ``{example_id: [[role, modality, content], ...]}``.

    The key of the first line with an id is the id; for further ones, the line's number is appended.

    Attributes:
        doubled: lines with the id of an earlier line.
    """

    def __init__(self, results: Results) -> None:
        self._results, self.doubled = results, 0
        self._first: dict[str, int] = {}
        for record in results.records():
            line = self._first.setdefault(record["example_id"], record["line"])
            self.doubled += line != record["line"]
            self._first[record["example_id"]] = min(line, record["line"])

    def chunks(self) -> Iterator[bytes]:
        """Yield the file's bytes, one answer at a time."""
        separator = b"{\n"
        for record in self._results.records():
            yield separator + orjson.dumps(self._key(record)) + b": " + orjson.dumps(_messages(record))
            separator = b",\n"
        yield b"\n}\n" if separator == b",\n" else b"{}\n"

    def _key(self, record: dict[str, Any]) -> str:
        first = self._first.get(record["example_id"]) == record["line"]
        return record["example_id"] if first else f"{record['example_id']} (line {record['line']})"


def _messages(record: dict[str, Any]) -> list[list[str]]:
    messages = [["assistant", "text", record["text"]]]
    if "wav" in record:
        messages.append(["assistant", "audio", record["wav"]])
    return messages
