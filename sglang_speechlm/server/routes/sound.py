"""A reply's sound at the sample rate of the response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial

import numpy as np
import numpy.typing as npt
import soxr

from sglang_speechlm.codec.tempo import Tempo
from sglang_speechlm.program.reply import AudioDelta, Piece
from sglang_speechlm.server.routes.streams import Items

Samples = npt.NDArray[np.float32]


def at_rate(reply: Items[Piece], source_rate: int, target_rate: int) -> Items[Piece]:
    """Return a reply's pieces with their sound at another rate, in Hz.

    The concatenated pieces equal the whole sound resampled, wherever they end. They arrive some tens of milliseconds
    later.
    """
    if source_rate == target_rate:
        return reply
    stream = soxr.ResampleStream(source_rate, target_rate, 1, dtype="float32")
    return _changed(reply, stream.resample_chunk, partial(stream.resample_chunk, np.empty(0, np.float32), True))


def at_speed(reply: Items[Piece], sample_rate: int, speed: float) -> Items[Piece]:
    """Return a reply's pieces with their sound ``speed`` times as fast, at the same pitch and sample rate (Hz).

    The joined sound does not depend on how it is split into pieces. It is delayed by about 0.2 s.
    """
    if speed == 1:
        return reply
    tempo = Tempo(sample_rate, speed)
    return _changed(reply, tempo.push, tempo.flush)


async def _changed(
    reply: Items[Piece], change: Callable[[Samples], Samples], rest: Callable[[], Samples]
) -> AsyncGenerator[Piece]:
    """Yield a reply's pieces, sound passed through ``change``, then the sound of ``rest``, both run in threads."""
    async with aclosing(reply):
        async for piece in reply:
            if not isinstance(piece, AudioDelta):
                yield piece
            elif len(samples := await asyncio.to_thread(change, piece.samples)):
                yield AudioDelta(samples)
    if len(samples := await asyncio.to_thread(rest)):
        yield AudioDelta(samples)
