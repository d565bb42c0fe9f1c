"""Lines of ESPnet-format JSONL, one at a time."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from .failure import Failure, Kind, Refused

ROLES = ("system", "user", "assistant")
MODALITIES = ("text", "audio")
GROUPS = ("task", "category", "sub-category", "difficulty")
"""Fields of a line, named as in MMAU's files, by which accuracy is told apart."""


class Message(NamedTuple):
    """One message: ``content`` is a text, or the path of an audio file."""

    role: str
    modality: str
    content: str


@dataclass(frozen=True)
class Line:
    """What a line asks.

    Attributes:
        example_id: as the line has it; several lines may have the same.
        messages: in their order, at least one.
        answer: the right answer, where the line states it beside its messages.
        choices: that the answer is one of; empty where the line has none.
        groups: of ``GROUPS``, those that the line has.
    """

    example_id: str
    messages: tuple[Message, ...]
    answer: str | None = None
    choices: tuple[str, ...] = ()
    groups: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Survey:
    """An input file, seen once from end to end.

    Attributes:
        sha256: of all its bytes.
        lines: that are not blank, up to the count that was asked for.
        last: number of the last of these; lines are numbered from 1, blank ones included.
    """

    sha256: str
    lines: int
    last: int


def survey(path: Path, count: int | None) -> Survey:
    """Count the lines, in memory that does not grow with the file.

    Raises:
        Refused: if the file cannot be read.
    """
    digest, lines, last = hashlib.sha256(), 0, 0
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                digest.update(raw)
                if raw.strip() and (count is None or lines < count):
                    lines, last = lines + 1, number
    except OSError as error:
        raise Refused(f"--input {path}: {error.strerror}") from error
    return Survey(digest.hexdigest(), lines, last)


def read_lines(path: Path, count: int | None) -> Iterator[tuple[int, bytes]]:
    """The first ``count`` lines that are not blank, with their numbers; one is read when it is asked for."""
    with path.open("rb") as file:
        numbered = ((number, raw) for number, raw in enumerate(file, 1) if raw.strip())
        yield from islice(numbered, count)


def parse_line(raw: bytes) -> Line:
    """What a line asks.

    Raises:
        Failure: BAD_LINE, naming the field, what it is and what is allowed.
    """
    try:
        fields = orjson.loads(raw.removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError as error:
        raise _bad(f"not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise _bad(f"must be a JSON object; got {_shown(fields)}")
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _bad(f"messages: must be a list of [role, modality, content]; got {_shown(messages)}")
    answer, choices = fields.get("answer"), fields.get("choices")
    if choices is not None and not isinstance(choices, list):
        raise _bad(f"choices: must be a list of texts; got {_shown(choices)}")
    return Line(
        example_id=_text("example_id", fields.get("example_id")),
        messages=tuple(_message(f"messages[{i}]", message) for i, message in enumerate(messages)),
        answer=None if answer is None else _text("answer", answer),
        choices=tuple(_text(f"choices[{i}]", choice) for i, choice in enumerate(choices or ())),
        groups={name: _text(name, fields[name]) for name in GROUPS if fields.get(name) is not None},
    )


def _message(place: str, value: Any) -> Message:
    if not isinstance(value, list) or len(value) != 3:
        raise _bad(f"{place}: must be [role, modality, content]; got {_shown(value)}")
    role, modality, content = value
    for name, given, allowed in (("role", role, ROLES), ("modality", modality, MODALITIES)):
        if given not in allowed:
            raise _bad(f"{place}: {name} must be one of {', '.join(allowed)}; got {_shown(given)}")
    return Message(role, modality, _text(f"{place}: content", content))


def _text(place: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _bad(f"{place}: must be a text that is not empty; got {_shown(value)}")
    return value


def _bad(message: str) -> Failure:
    return Failure(Kind.BAD_LINE, message)


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
