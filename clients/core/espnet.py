"""``X.results.json``: the answers in the form of ESPnet's inference, which evaluation scripts read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from .results import Results


class EspnetResults:
    """The answers as one object: ``{example_id: [[role, modality, content], ...]}``.

    The first line of an id has it as its key; any further one has its line's number behind it.

    Attributes:
        doubled: lines whose id is another line's as well, without the first of each.
    """

    def __init__(self, results: Results) -> None:
        self._results, self.doubled = results, 0
        self._first: dict[str, int] = {}
        for record in results.records():
            line = self._first.setdefault(record["example_id"], record["line"])
            self.doubled += line != record["line"]
            self._first[record["example_id"]] = min(line, record["line"])

    def chunks(self) -> Iterator[bytes]:
        """The file's bytes, one answer at a time."""
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
