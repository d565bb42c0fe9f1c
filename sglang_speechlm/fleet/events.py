"""Relay server-sent events as a whole, so that an error can follow if a stream breaks off."""

from __future__ import annotations

import orjson

_END = b"\n\n"
_DATA = b"data: "
_ROUTERS_ERROR = b'data: {"error":{"message":"Stream error'
"""Beginning of the event that smg appends if a worker breaks off its stream."""
_LAST = (
    b"data: [DONE]",
    b'data: {"error":',
    b'data: {"type":"speech.audio.done"',
    b'data: {"type":"transcript.text.done"',
)
"""Beginnings of the events that end a worker's stream."""


class EventRelay:
    """Takes a stream in pieces and returns its events, byte for byte, as they become complete.

    Attributes:
        is_complete: whether the stream's final event has arrived.
    """

    def __init__(self) -> None:
        self.is_complete = False
        self._is_broken = False
        self._begun = b""
        self._odd = b""

    def take(self, piece: bytes) -> bytes:
        """Return the events that ``piece`` completes."""
        *whole, self._begun = (self._begun + piece).split(_END)
        return b"".join(self._pass(event + _END) for event in whole)

    def rest(self) -> bytes:
        """Return the rest of a stream that has ended normally, without an incomplete event."""
        return self._odd + self._begun if self.is_complete else b""

    def _pass(self, event: bytes) -> bytes:
        if event.lstrip(b"\n").startswith(_ROUTERS_ERROR):
            self._is_broken = True
        if self._is_broken:
            return b""
        before, self._odd = self._odd, b""
        if event.startswith(_LAST):
            self.is_complete = True
        elif not _is_whole(event):
            # Half of an event: smg ends it with an empty line before it reports that the rest is missing.
            self._odd = event
            return before
        return before + event


def _is_whole(event: bytes) -> bool:
    """Whether this is JSON or a comment, as are all events of a worker that do not end a stream."""
    if event.startswith(b":"):
        return True
    try:
        orjson.loads(event.removeprefix(_DATA))
    except orjson.JSONDecodeError:
        return False
    return event.startswith(_DATA)
