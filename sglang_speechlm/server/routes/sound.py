"""A reply's sound as it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import numpy as np
import soxr

from sglang_speechlm.program.reply import AudioDelta, Piece
from sglang_speechlm.server.routes.streams import Items


def at_rate(reply: Items[Piece], source_rate: int, target_rate: int) -> Items[Piece]:
    """Return a reply's pieces with their sound at another rate, in Hz.

    Joined, the sound is the resampling of the whole, wherever its pieces end. It comes some tens of milliseconds later.
    """
    return reply if source_rate == target_rate else _resampled(reply, source_rate, target_rate)


async def _resampled(reply: Items[Piece], source_rate: int, target_rate: int) -> AsyncGenerator[Piece]:
    stream = soxr.ResampleStream(source_rate, target_rate, 1, dtype="float32")
    async with aclosing(reply):
        async for piece in reply:
            if not isinstance(piece, AudioDelta):
                yield piece
            elif len(samples := await asyncio.to_thread(stream.resample_chunk, piece.samples)):
                yield AudioDelta(samples)
    if len(rest := await asyncio.to_thread(stream.resample_chunk, np.empty(0, np.float32), True)):
        yield AudioDelta(rest)
