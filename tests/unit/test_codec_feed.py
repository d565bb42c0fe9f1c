"""Frames go to the codec process when they complete a piece there, not one output at a time."""

import asyncio

import numpy as np
import pytest

from sglang_speechlm.codec import CodecStream, FrameFeed, PiecePolicy, deinterleave, interleave
from sglang_speechlm.codec.protocol import Push, Request
from sglang_speechlm.codec.windows import Context, WindowPlanner
from sglang_speechlm.config import SpeechLMConfig

IDS = SpeechLMConfig().ids
CONTEXT, POLICY = Context(10, 10), PiecePolicy()


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
def test_all_codes_arrive_and_each_push_completes_a_piece(at_once: int) -> None:
    sent, frames = Sent(), frames_of(300)
    feed = FrameFeed(CodecStream(0, sent, WindowPlanner(CONTEXT, POLICY)), IDS)
    there = WindowPlanner(CONTEXT, POLICY)  # the codec process's own, with everything at once
    here = WindowPlanner(CONTEXT, POLICY)

    async def run() -> None:
        for at in range(0, len(frames), at_once):
            before = len(sent.codes)
            await feed.push(frames[at : at + at_once])
            arrived = max(min(at + at_once, len(frames)) - 7, 0) - max(at - 7, 0)
            there.push(arrived)
            can_emit = _emit(there)
            assert (len(sent.codes) > before) == can_emit
            if can_emit:
                here.push(len(sent.codes[-1]))
                assert _emit(here)
        await feed.flush()

    asyncio.run(run())
    assert np.array_equal(np.concatenate(sent.codes), deinterleave(frames, IDS))
    assert np.array_equal(feed.codes(), deinterleave(frames, IDS))


def _emit(planner: WindowPlanner) -> bool:
    """Take all pieces that can be decoded; whether there was one."""
    count = 0
    while (window := planner.peek()) is not None:
        planner.advance(window)
        count += 1
    return count > 0


def test_frames_too_few_for_a_piece_leave_with_the_end() -> None:
    sent, frames = Sent(), frames_of(5)
    feed = FrameFeed(CodecStream(0, sent, WindowPlanner(CONTEXT, POLICY)), IDS)

    async def run() -> None:
        await feed.push(frames)
        assert sent.codes == []
        await feed.flush()
        await feed.flush()

    asyncio.run(run())
    (codes,) = sent.codes
    assert np.array_equal(codes, deinterleave(frames, IDS))
