"""A reply's sound at another rate: the pieces join to the resampled whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import numpy as np
import pytest
import soxr

from sglang_speechlm.codec import to_pcm16
from sglang_speechlm.program.reply import AudioDelta, Piece, TextDelta
from sglang_speechlm.server.routes.sound import at_rate

SOUND = np.random.default_rng(0).uniform(-1, 1, 30_000).astype(np.float32)


async def reply(*cuts: int) -> AsyncGenerator[Piece]:
    yield TextDelta("Hello.")
    for samples in np.split(SOUND, cuts):
        yield AudioDelta(samples)


async def collected(source: AsyncGenerator[Piece], rate: int) -> list[Piece]:
    return [piece async for piece in at_rate(source, 16_000, rate)]


def resampled(rate: int, *cuts: int) -> np.ndarray:
    text, *sound = asyncio.run(collected(reply(*cuts), rate))
    assert text == TextDelta("Hello.")
    pieces = [piece.samples for piece in sound if isinstance(piece, AudioDelta)]
    assert len(pieces) == len(sound)
    assert all(len(piece) for piece in pieces)
    return np.concatenate(pieces)


@pytest.mark.parametrize("rate", [8_000, 11_025, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("cuts", [(), (1,), (320, 321, 5_000), (1_280, 2_560, 5_120, 7_680, 29_999)])
def test_pieces_join_to_the_resampled_whole(rate: int, cuts: tuple[int, ...]) -> None:
    np.testing.assert_array_equal(resampled(rate, *cuts), to_pcm16(soxr.resample(SOUND, 16_000, rate)))


def test_the_codecs_own_rate_leaves_the_samples_unchanged() -> None:
    np.testing.assert_array_equal(resampled(16_000, 320, 5_000), to_pcm16(SOUND))


def test_a_reply_without_sound_is_unchanged() -> None:
    async def written() -> AsyncGenerator[Piece]:
        yield TextDelta("Hello.")

    assert asyncio.run(collected(written(), 24_000)) == [TextDelta("Hello.")]


def test_closing_the_resampled_sound_closes_the_reply() -> None:
    ended = []

    async def endless() -> AsyncGenerator[Piece]:
        try:
            while True:
                yield AudioDelta(SOUND)
        finally:
            ended.append(True)

    async def close_early() -> None:
        pieces = at_rate(endless(), 16_000, 24_000)
        await anext(aiter(pieces))
        await pieces.aclose()

    asyncio.run(close_early())
    assert ended == [True]
