"""Transcribe a recording: the replies to its windows, one after the other, joined to one text."""

from __future__ import annotations

import unicodedata
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from sglang_speechlm.program.queueing import later_part
from sglang_speechlm.program.reply import Piece, Pieces, Reply, Responder, TextDelta
from sglang_speechlm.program.request import ReplyRequest


@dataclass(frozen=True, eq=False)
class HeardWindow:
    """A part of a recording, and the request to transcribe it.

    Attributes:
        start, end: in seconds from the recording's beginning.
    """

    start: float
    end: float
    request: ReplyRequest


@dataclass(frozen=True, eq=False)
class Segment:
    """A part of a recording and the reply to it, complete once the reply has ended; times are in seconds."""

    start: float
    end: float
    reply: Reply

    @property
    def text(self) -> str:
        """The transcript, without thinking."""
        return self.reply.split.content.strip()


class Dictation(Pieces):
    """An iterator over the pieces of one text, complete when it is exhausted.

    Windows are read and transcribed one at a time. A space separates their texts if neither has white space there,
    except in scripts without spaces. Iterating raises what ``Reply`` and the windows raise.

    Attributes:
        segments: those that have started, in order.
        max_tokens: budget of all of them together; None for no limit.
        is_cut: whether the budget ended a window's text, or left windows out.
    """

    def __init__(
        self, responder: Responder, windows: AsyncGenerator[HeardWindow], max_tokens: int | None = None
    ) -> None:
        """Take the windows, which are closed together with this iterator, and the budget."""
        super().__init__()
        self.segments: list[Segment] = []
        self.max_tokens = max_tokens
        self.is_cut = False
        self._responder = responder
        self._windows = windows
        self._last = ""

    @property
    def tokens(self) -> int:
        """The number of generated ids."""
        return sum(segment.reply.finish.tokens for segment in self.segments)

    async def aclose(self) -> None:
        """End everything that is running, and the windows."""
        await super().aclose()
        await self._windows.aclose()

    async def _run(self) -> AsyncGenerator[Piece]:
        aborts = self._responder.engine.aborts
        async with aclosing(self._windows):
            async for window in self._windows:
                request = window.request
                if self.max_tokens is not None:
                    request = replace(request, max_tokens=self.max_tokens - self.tokens)
                if request.max_tokens < 1:
                    self.is_cut = True
                    return
                async with aclosing(self._transcribe(window, request, aborts)) as pieces:
                    async for piece in pieces:
                        yield piece
                reply = self.segments[-1].reply
                if self.max_tokens == self.tokens and reply.finish.reason == "length" and not reply.finish.warnings:
                    self.is_cut = True
                    return

    def _transcribe(self, window: HeardWindow, request: ReplyRequest, aborts: int) -> AsyncGenerator[Piece]:
        """Return the pieces of one window's text."""

        def begin() -> AsyncGenerator[Piece]:
            reply = self._responder.reply(request)
            self.segments.append(Segment(window.start, window.end, reply))
            return self._joined(reply)

        engine = self._responder.engine
        return later_part(engine, aborts, begin, self.segments.pop) if self.segments else begin()

    async def _joined(self, reply: Reply) -> AsyncGenerator[Piece]:
        """Yield a reply's pieces, with a separator between its text and the text so far.

        White space between thinking and text is removed.
        """
        has_begun = False
        async with aclosing(reply):
            async for piece in reply:
                if isinstance(piece, TextDelta):
                    is_first = not has_begun and reply.split.reasoning is not None
                    text = piece.text.lstrip() if is_first else piece.text
                    if not text:
                        continue
                    between = "" if has_begun else separator(self._last, text)
                    has_begun = True
                    self._last = text
                    piece = TextDelta(between + text)
                yield piece


def separator(before: str, after: str) -> str:
    """Return the separator of two texts: a space, unless one has white space there or both scripts have no spaces."""
    if not before or not after or before[-1].isspace() or after[0].isspace():
        return ""
    return "" if _is_unspaced(before[-1]) and _is_unspaced(after[0]) else " "


def _is_unspaced(character: str) -> bool:
    """Return whether it is Chinese or Japanese; Korean is as wide, but has spaces."""
    return unicodedata.east_asian_width(character) in "WF" and not "\uac00" <= character <= "\ud7a3"
