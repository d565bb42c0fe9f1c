"""The reasons why a line has no answer."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """Kinds of failures; an HTTP status is another kind: ``http_400``."""

    BAD_LINE = "bad_line"
    MISSING_AUDIO = "missing_audio"
    AMBIGUOUS_AUDIO = "ambiguous_audio"
    UNREADABLE_AUDIO = "unreadable_audio"
    SPOKEN_HISTORY = "spoken_history"
    NO_SERVER = "no_server"
    OVERLOADED = "overloaded"
    TIMEOUT = "timeout"
    DISCONNECTED = "disconnected"
    BAD_ANSWER = "bad_answer"


class Failure(Exception):
    """A line cannot be answered; the run continues.

    Attributes:
        kind: one of ``Kind``, or an HTTP status.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = str(kind)


class Refused(Exception):
    """The run cannot start or continue; the message says why and what to do."""
