"""Frames from a step's tensor to the HTTP process: bytes that SGLang slices as if they were lists."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sglang.srt.managers.auxiliary_output import CommittedTokens

from sglang_speechlm.sglang_hooks.req import spoken_frames
from sglang_speechlm.sglang_hooks.results import StepFrames
from sglang_speechlm.stage import FRAMES, TEXT_STAGE, UNCONDITIONAL_CACHED, Stage, frames_of

STEPS, ROWS, STREAMS = 12, 3, 8
DRAWN = torch.randint(0, 160_392, (STEPS, ROWS, STREAMS), generator=torch.Generator().manual_seed(0))


def request(stage: Stage) -> Any:
    return SimpleNamespace(speechlm_stage=stage, customized_info=None)


def collected(reqs: Sequence[Any], steps: torch.Tensor = DRAWN, taken: bool = True) -> None:
    """Collect the frames of all steps, as SGLang does: from one output of a step, with the tokens that it has taken."""
    batch: Any = SimpleNamespace(reqs=reqs)
    for step, frames in enumerate(steps):
        commits = [CommittedTokens(step, (int(row[0]),)) if taken else None for row in frames[: len(reqs)]]
        StepFrames(frames[: len(reqs)]).copy_to_host(torch.clone).consume(batch, commits)


@pytest.mark.parametrize("interval", [1, 5, 8, 100])
def test_the_slices_that_are_sent_join_to_the_frames_of_the_row(interval: int) -> None:
    reqs = [request(Stage(audio=True)) for _ in range(ROWS)]
    collected(reqs)
    for i, req in enumerate(reqs):
        chunks = [
            chunk for at in range(0, STEPS, interval) for chunk in req.customized_info[FRAMES][at : at + interval]
        ]
        assert np.array_equal(frames_of(chunks, STREAMS), DRAWN[:, i])
        assert np.array_equal(spoken_frames(req), DRAWN[:, i])


def test_a_slice_with_nothing_new_has_no_chunk() -> None:
    req = request(Stage(audio=True))
    collected([req])
    assert req.customized_info[FRAMES][STEPS:STEPS] == []
    assert frames_of([], STREAMS).shape == (0, STREAMS)


def test_a_text_beside_frames_has_none() -> None:
    text = request(TEXT_STAGE)
    collected([request(Stage(audio=True)), text])
    assert text.customized_info is None
    # SGLang pads the other rows of the output with None, one per id.
    assert frames_of([None, None], STREAMS).shape == (0, STREAMS)


def test_a_guided_row_tells_what_its_other_branch_had_cached() -> None:
    leader = request(Stage(audio=True, cfg=2.0))
    leader.speechlm_shadow = SimpleNamespace(cached_tokens=40)
    collected([leader])
    assert leader.customized_info[UNCONDITIONAL_CACHED] == [40] * STEPS


def test_a_row_whose_token_is_dropped_gets_no_frame() -> None:
    req = request(Stage(audio=True))
    collected([req], taken=False)
    assert req.customized_info is None
    collected([req], DRAWN[:2])
    collected([req], DRAWN[2:4], taken=False)
    assert np.array_equal(spoken_frames(req), DRAWN[:2, 0])
