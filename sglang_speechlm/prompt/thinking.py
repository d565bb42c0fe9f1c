"""Separate thinking from the answer that follows it, in a complete text or one that arrives in pieces."""

from __future__ import annotations

from enum import Enum, auto
from typing import Literal, NamedTuple

Reasoning = Literal["none", "think", "lone"]
"""How thinking is marked in a text: not at all; between ``<think>`` at its beginning and ``</think>``; or there, or
before a lone ``</think>``."""

PARSERS: dict[str, Reasoning] = {
    "none": "none",
    "think": "think",
    "lone": "lone",
    "qwen3": "think",
    "qwen3-thinking": "lone",
    "deepseek-r1": "lone",
}
"""Values of --reasoning-parser: these, and SGLang's names of parsers that read the same tags."""

START = "<think>"
END = "</think>"


class Split(NamedTuple):
    """A text, or a piece of one.

    Attributes:
        reasoning: the thinking, without its tags; None if there is none.
        content: the rest, white space included.
    """

    reasoning: str | None = None
    content: str = ""

    def then(self, more: Split) -> Split:
        """Return this piece joined with the next one."""
        thoughts = [piece.reasoning for piece in (self, more) if piece.reasoning is not None]
        return Split("".join(thoughts) if thoughts else None, self.content + more.content)


class _State(Enum):
    BEGINNING = auto()
    TAGGED = auto()
    UNTAGGED = auto()
    CONTENT = auto()


class ThinkingSplitter:
    """Splits a text that arrives in pieces.

    Thinking after ``<think>`` is returned as it arrives; without an end tag, the whole rest is thinking. If a lone
    ``</think>`` is possible, a text that does not begin with ``<think>`` is held back: everything before a
    ``</think>`` was thinking, and a text without one is content.
    """

    def __init__(self, reasoning: Reasoning) -> None:
        self._knows_lone = reasoning == "lone"
        self._state = _State.CONTENT if reasoning == "none" else _State.BEGINNING
        self._held = ""

    def push(self, text: str) -> Split:
        """Take more of the text; return the part that is now decided."""
        held, self._held = self._held + text, ""
        reasoning: str | None = None
        if self._state is _State.BEGINNING:
            if len(held) < len(START) and START.startswith(held):
                self._held = held
                return Split()
            if held.startswith(START):
                self._state, held, reasoning = _State.TAGGED, held.removeprefix(START), ""
            else:
                self._state = _State.UNTAGGED if self._knows_lone else _State.CONTENT
        if self._state is _State.CONTENT:
            return Split(content=held)
        before, end, after = held.partition(END)
        if end:
            self._state = _State.CONTENT
            return Split(before, after)
        if self._state is _State.UNTAGGED:
            self._held = held
            return Split()
        settled = len(held) - opening(held, END)
        self._held = held[settled:]
        return Split(held[:settled] or reasoning)

    def flush(self) -> Split:
        """Return the rest, after the end of the text."""
        held, self._held = self._held, ""
        return Split(held or None) if self._state is _State.TAGGED else Split(content=held)


def split(text: str, reasoning: Reasoning) -> Split:
    """Split a complete text."""
    splitter = ThinkingSplitter(reasoning)
    return splitter.push(text).then(splitter.flush())


def join(reasoning: str, content: str) -> str:
    """Return the text of a model that thinks first."""
    return f"{START}{reasoning}{END}{content}"


def opening(text: str, mark: str) -> int:
    """Return how many characters at the end of the text may be the beginning of ``mark``."""
    return next((size for size in range(len(mark) - 1, 0, -1) if text.endswith(mark[:size])), 0)
