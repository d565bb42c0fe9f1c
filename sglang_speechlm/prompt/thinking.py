"""Thinking told apart from the answer that follows it, in a text that is whole or comes in pieces."""

from __future__ import annotations

from enum import Enum, auto
from typing import Literal, NamedTuple

Reasoning = Literal["none", "think", "lone"]
"""Where thinking stands in a text: nowhere; between ``<think>`` at its beginning and ``</think>``; or there, or before
a lone ``</think>``."""

PARSERS: dict[str, Reasoning] = {
    "none": "none",
    "think": "think",
    "lone": "lone",
    "qwen3": "think",
    "qwen3-thinking": "lone",
    "deepseek-r1": "lone",
}
"""By the values of --reasoning-parser: these, and SGLang's names of parsers that read the same tags."""

START = "<think>"
END = "</think>"


class Split(NamedTuple):
    """A text, or a piece of one.

    Attributes:
        reasoning: what is thinking, without its tags; None if there is none.
        content: the rest, white space included.
    """

    reasoning: str | None = None
    content: str = ""

    def then(self, more: Split) -> Split:
        """This piece and the one after it."""
        thoughts = [piece.reasoning for piece in (self, more) if piece.reasoning is not None]
        return Split("".join(thoughts) if thoughts else None, self.content + more.content)


class _State(Enum):
    BEGINNING = auto()
    TAGGED = auto()
    UNTAGGED = auto()
    CONTENT = auto()


class ThinkingSplitter:
    """Splits a text that comes in pieces.

    Thinking that ``<think>`` opens is given as it comes, and without an end all that follows is thinking. Where a lone
    ``</think>`` is possible, a text that does not begin with ``<think>`` is held back until it is known: what precedes
    a ``</think>`` was thinking, and a text without one is content.
    """

    def __init__(self, reasoning: Reasoning) -> None:
        self._knows_lone = reasoning == "lone"
        self._state = _State.CONTENT if reasoning == "none" else _State.BEGINNING
        self._held = ""

    def push(self, text: str) -> Split:
        """What is settled by more of the text."""
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
        settled = len(held) - _opening(held)
        self._held = held[settled:]
        return Split(held[:settled] or reasoning)

    def flush(self) -> Split:
        """The rest, once the text is complete."""
        held, self._held = self._held, ""
        return Split(held or None) if self._state is _State.TAGGED else Split(content=held)


def split(text: str, reasoning: Reasoning) -> Split:
    """A whole text."""
    splitter = ThinkingSplitter(reasoning)
    return splitter.push(text).then(splitter.flush())


def join(reasoning: str, content: str) -> str:
    """The text that the model writes where it thinks first."""
    return f"{START}{reasoning}{END}{content}"


def _opening(text: str) -> int:
    """How many characters at the text's end may turn out to begin an ``</think>``."""
    return next((size for size in range(len(END) - 1, 0, -1) if text.endswith(END[:size])), 0)
