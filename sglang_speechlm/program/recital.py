"""A long text spoken as one sound: the replies to its passages in sequence."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from sglang_speechlm.program.queueing import later_part
from sglang_speechlm.program.reply import AudioDelta, Piece, Pieces, Reply, Responder
from sglang_speechlm.program.request import ReplyRequest

_FADE_SECONDS = 0.005


class Recital(Pieces):
    """An iterator over the pieces of all passages, complete when it is exhausted.

    If there are several passages, each fades in and out within 5 ms, so that the joins do not click.
    Iterating raises the same errors as ``Reply``.

    Attributes:
        replies: the replies that have begun, in order.
        max_tokens, max_frames: budgets of all passages together; None means no limit.
    """

    def __init__(
        self,
        responder: Responder,
        passages: Sequence[ReplyRequest],
        max_tokens: int | None,
        max_frames: int | None,
        rate: int | None = None,
    ) -> None:
        """Take the requests of the passages, and the budgets of all of them together; None means no limit.

        Args:
            responder: makes the replies.
            passages: their requests.
            max_tokens, max_frames: the budgets.
            rate: as for ``Responder.reply``; only for a single passage.
        """
        super().__init__()
        self.replies: list[Reply] = []
        self._responder = responder
        self._passages = passages
        self._rate = rate
        self.max_tokens = max_tokens
        self.max_frames = max_frames

    @property
    def has_ended(self) -> bool:
        """Whether its last reply has ended; pieces of its sound may still follow."""
        return bool(self.replies) and self.replies[-1].has_ended and self._next() is None

    @property
    def is_cut(self) -> bool:
        """Whether a budget left passages unspoken, or the last one incomplete."""
        return len(self.replies) < len(self._passages) or self.replies[-1].finish.reason == "length"

    @property
    def tokens(self) -> int:
        """Number of generated ids and frames."""
        return sum(reply.finish.tokens for reply in self.replies)

    @property
    def frames(self) -> int:
        """Number of generated frames."""
        return sum(reply.finish.audio_tokens for reply in self.replies)

    async def _run(self) -> AsyncGenerator[Piece]:
        engine = self._responder.engine
        aborts = engine.aborts
        while (request := self._next()) is not None:
            begin = partial(self._speak, request)
            passage = later_part(engine, aborts, begin, self.replies.pop) if self.replies else begin()
            async with aclosing(passage) as pieces:
                async for piece in pieces:
                    yield piece

    async def _speak(self, request: ReplyRequest) -> AsyncGenerator[Piece]:
        reply = self._responder.reply(request, self._rate)
        self.replies.append(reply)
        pieces = reply if len(self._passages) == 1 else _faded(reply, self._responder.sample_rate)
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    def _next(self) -> ReplyRequest | None:
        """Return the next passage's request, limited to the remaining budgets; None if nothing remains."""
        if len(self.replies) == len(self._passages):
            return None
        request = self._passages[len(self.replies)]
        if self.max_tokens is not None:
            request = replace(request, max_tokens=self.max_tokens - self.tokens)
        if self.max_frames is not None and request.audio is not None:
            left = self.max_frames - self.frames
            audio = replace(request.audio, max_frames=left, min_frames=min(request.audio.min_frames, left))
            request = replace(request, audio=audio)
        is_spent = request.max_tokens < 1 or (request.audio is not None and request.audio.max_frames == 0)
        return None if is_spent else request


async def _faded(reply: Reply, sample_rate: int) -> AsyncGenerator[Piece]:
    """Yield a reply's pieces with its sound faded in and out; the length of a fade is held back for the end."""
    length = round(_FADE_SECONDS * sample_rate)
    rise = np.linspace(0, 1, length, dtype=np.float32)
    held: npt.NDArray[np.float32] | None = None
    async with aclosing(reply):
        async for piece in reply:
            if not isinstance(piece, AudioDelta):
                yield piece
                continue
            samples = piece.samples.astype(np.float32, copy=False)
            samples = samples if held is None else np.concatenate((held, samples))
            if held is None:
                begin = min(length, len(samples))
                samples = np.concatenate((samples[:begin] * rise[:begin], samples[begin:]))
            held = samples[-length:]
            if len(samples) > length:
                yield AudioDelta(samples[:-length])
    if held is not None:
        yield AudioDelta(held * rise[::-1][-len(held) :])
