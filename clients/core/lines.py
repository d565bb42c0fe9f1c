"""Parse a line of ESPnet-format JSONL.

Only the messages decide whether a line can be sent. The other fields (id, correct answer, choices, groups) are used as
far as possible; a note names each one that is unusable.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from .failure import Failure, Kind

ROLES = ("system", "user", "assistant")
MODALITIES = ("text", "audio")
GROUPS = ("task", "category", "sub-category", "difficulty")
"""Fields of a line by which accuracy is grouped, named as in MMAU's files."""


class Message(NamedTuple):
    """A message: ``content`` is a text, or the path of an audio file."""

    role: str
    modality: str
    content: str


@dataclass(frozen=True)
class Line:
    """A parsed line.

    Attributes:
        example_id: the line's own, or derived from its number; not necessarily unique.
        messages: in order, at least one.
        answer: the correct answer, if the line has it outside its messages.
        choices: the possible answers; empty if the line has none.
        groups: those of ``GROUPS`` that the line has.
        notes: what could not be used.
    """

    example_id: str
    messages: tuple[Message, ...]
    answer: str | None = None
    choices: tuple[str, ...] = ()
    groups: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def is_blank(raw: bytes) -> bool:
    """Whether a line is blank."""
    return not raw.removeprefix(codecs.BOM_UTF8).strip()


def digest_of_line(raw: bytes) -> str:
    """Return a line's digest, regardless of its line end: 16 hexadecimal digits."""
    return hashlib.blake2b(raw.removeprefix(codecs.BOM_UTF8).rstrip(b"\r\n"), digest_size=8).hexdigest()


def id_of(raw: bytes, number: int) -> str:
    """Return the id of a line in any form: its own, or one derived from its number."""
    try:
        fields = _fields(raw)
    except Failure:
        fields = None
    found = _text(fields.get("example_id")) if isinstance(fields, dict) else None
    return found or f"line-{number}"


def parse_line(raw: bytes, number: int = 1) -> Line:
    """Parse a line.

    Args:
        raw: the line, with or without its end.
        number: of the line in its file.

    Raises:
        Failure: BAD_LINE, naming the field, what it is and what is allowed.
    """
    fields = _fields(raw)
    if not isinstance(fields, dict):
        raise _bad(f"must be a JSON object; got {_shown(fields)}")
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _bad(f"messages: must be a list of [role, modality, content]; got {_shown(messages)}")
    notes: list[str] = []
    answer = fields.get("answer")
    if isinstance(answer, dict | list) and answer:
        notes.append(f"answer: must be a string; got {_shown(answer)}; ignored for scoring")
        answer = None
    choices = fields.get("choices") or []
    if not isinstance(choices, list):
        notes.append(f"choices: must be a list of strings; got {_shown(choices)}; ignored for scoring")
        choices = []
    return Line(
        example_id=_text(fields.get("example_id")) or f"line-{number}",
        messages=tuple(_message(f"messages[{i}]", message) for i, message in enumerate(messages)),
        answer=_text(answer) or None,
        choices=tuple(_text(choice) or "" for choice in choices),
        groups={name: text for name in GROUPS if (text := _text(fields.get(name)))},
        notes=tuple(notes),
    )


def _fields(raw: bytes) -> Any:
    """Return what a line holds; JSON as other programs write it (NaN, lone surrogates, tabs in texts) is read, too."""
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        try:
            return json.loads(raw.decode(), strict=False)
        except (ValueError, RecursionError):
            raise _bad(f"not JSON: {error}") from error


def _message(place: str, value: Any) -> Message:
    if not isinstance(value, list) or len(value) != 3:
        raise _bad(f"{place}: must be [role, modality, content]; got {_shown(value)}")
    role, modality, content = value
    for name, given, allowed in (("role", role, ROLES), ("modality", modality, MODALITIES)):
        if given not in allowed:
            raise _bad(f"{place}: {name} must be one of {', '.join(allowed)}; got {_shown(given)}")
    if content is None and role == "assistant":
        content = ""
    if content is None or content != content or isinstance(content, bool | list | dict):
        raise _bad(f"{place}: content: must be a string; got {_shown(content)}")
    return Message(role, modality, _text(content) or "")


def _text(value: Any) -> str | None:
    """Return a field as text: a text unchanged, anything else as JSON, without a fraction of zero.

    None for null, for NaN from tables, and for an empty list or object.
    """
    if value is None or value != value or (isinstance(value, list | dict) and not value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return None
    return text.encode(errors="replace").decode()


def _bad(message: str) -> Failure:
    return Failure(Kind.BAD_LINE, message)


def _shown(value: Any) -> str:
    try:
        shown = repr(value)
    except RecursionError:
        return "a value that is nested too deeply"
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return shown.encode(errors="replace").decode()
