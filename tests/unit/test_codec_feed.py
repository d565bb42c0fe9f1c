"""Frames on their way to the codec process: their delay is undone, and all their codes are pushed."""

import asyncio

import numpy as np
import pytest

from sglang_speechlm.codec import CodecStream, FrameFeed, deinterleave, interleave
from sglang_speechlm.codec.protocol import Push, Request
from sglang_speechlm.config import SpeechLMConfig

IDS = SpeechLMConfig().ids


class Sent:
    """Keeps what the codec process is sent."""

    def __init__(self) -> None:
        self.codes: list[np.ndarray] = []

    def send(self, message: Request) -> None:
        assert isinstance(message, Push)
        self.codes.append(message.codes)

    async def drain(self) -> None: ...

    def forget(self, stream: int) -> None: ...


def frames_of(length: int) -> np.ndarray:
    return interleave(np.random.default_rng(length).integers(0, IDS.codebook_size, (length, IDS.num_stream)), IDS)


@pytest.mark.parametrize("at_once", [1, 8, 100])
def test_all_codes_arrive_and_no_push_is_empty(at_once: int) -> None:
    sent, frames = Sent(), frames_of(300)
    feed = FrameFeed(CodecStream(0, sent), IDS)

    async def run() -> None:
        for at in range(0, len(frames), at_once):
            await feed.push(frames[at : at + at_once])

    asyncio.run(run())
    assert all(len(codes) for codes in sent.codes)
    assert np.array_equal(np.concatenate(sent.codes), deinterleave(frames, IDS))
    assert np.array_equal(feed.codes(), deinterleave(frames, IDS))
