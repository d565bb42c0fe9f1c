"""A sound that differs from the codec process's output: changed in speed, or joined from several replies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial

import numpy as np
import numpy.typing as npt

from sglang_speechlm.codec import Samples
from sglang_speechlm.codec.pcm import PcmStream
from sglang_speechlm.codec.tempo import Tempo
from sglang_speechlm.program.reply import AudioDelta, Piece
from sglang_speechlm.server.routes.streams import Items


def at_rate(reply: Items[Piece], source_rate: int, target_rate: int) -> Items[Piece]:
    """Return a reply's pieces with their sound as 16-bit PCM at another rate, in Hz.

    The concatenated pieces equal the whole sound resampled, wherever they end. They arrive some tens of milliseconds
    later.
    """
    pcm = PcmStream(source_rate, target_rate)
    return _changed(reply, pcm.push, partial(pcm.push, np.empty(0, np.float32), is_last=True))


def at_speed(reply: Items[Piece], sample_rate: int, speed: float) -> Items[Piece]:
    """Return a reply's pieces with their sound ``speed`` times as fast, at the same pitch and sample rate (Hz).

    The joined sound does not depend on how it is split into pieces. It is delayed by about 0.2 s.
    """
    if speed == 1:
        return reply
    tempo = Tempo(sample_rate, speed)
    return _changed(reply, tempo.push, tempo.flush)


async def _changed(
    reply: Items[Piece], change: Callable[[npt.NDArray[np.float32]], Samples], rest: Callable[[], Samples]
) -> AsyncGenerator[Piece]:
    """Yield a reply's pieces, sound passed through ``change``, then the sound of ``rest``, both run in threads.

    The reply's sound must have float samples.
    """
    async with aclosing(reply):
        async for piece in reply:
            if not isinstance(piece, AudioDelta):
                yield piece
            elif len(samples := await asyncio.to_thread(change, piece.samples.astype(np.float32, copy=False))):
                yield AudioDelta(samples)
    if len(samples := await asyncio.to_thread(rest)):
        yield AudioDelta(samples)
