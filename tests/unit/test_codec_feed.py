"""Frames on their way to the codec process: their delay is removed, and all codes are pushed."""

import asyncio

import numpy as np
import pytest

from sglang_speechlm.codec import CodecStream, Deinterleaver, FrameFeed, interleave
from sglang_speechlm.codec.protocol import Push, Request
from sglang_speechlm.config import SpeechLMConfig

IDS = SpeechLMConfig().ids


class RecordingConnection:
    """A connection that keeps the codes that are sent to the codec process."""

    def __init__(self) -> None:
        self.codes: list[np.ndarray] = []

    def send(self, message: Request) -> None:
        assert isinstance(message, Push)
        self.codes.append(message.codes)

    async def drain(self) -> None: ...

    def forget(self, stream: int) -> None: ...


def frames_of(length: int) -> np.ndarray:
    return interleave(np.random.default_rng(length).integers(0, IDS.codebook_size, (length, IDS.num_stream)), IDS)


@pytest.mark.parametrize("frames_per_push", [1, 8, 100])
def test_all_codes_arrive_and_no_push_is_empty(frames_per_push: int) -> None:
    connection, frames = RecordingConnection(), frames_of(300)
    feed = FrameFeed(CodecStream(0, connection), IDS)

    async def run() -> None:
        for at in range(0, len(frames), frames_per_push):
            await feed.push(frames[at : at + frames_per_push])

    asyncio.run(run())
    assert all(len(codes) for codes in connection.codes)
    expected = Deinterleaver(IDS).push(frames)
    assert np.array_equal(np.concatenate(connection.codes), expected)
    assert np.array_equal(feed.codes(), expected)
