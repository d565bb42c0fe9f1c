"""Frames on their way from a step's tensor to the HTTP process, as bytes that SGLang slices like lists."""

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
FRAME_IDS = torch.randint(0, 160_392, (STEPS, ROWS, STREAMS), generator=torch.Generator().manual_seed(0))


def request(stage: Stage) -> Any:
    return SimpleNamespace(speechlm_stage=stage, customized_info=None)


def collect(reqs: Sequence[Any], steps: torch.Tensor = FRAME_IDS, accepted: bool = True) -> None:
    """Collect the frames of all steps as SGLang does: one output per step, with the tokens that it has accepted."""
    batch: Any = SimpleNamespace(reqs=reqs)
    for step, frames in enumerate(steps):
        commits = [CommittedTokens(step, (int(row[0]),)) if accepted else None for row in frames[: len(reqs)]]
        StepFrames(frames[: len(reqs)]).copy_to_host(torch.clone).consume(batch, commits)


@pytest.mark.parametrize("interval", [1, 5, 8, 100])
def test_the_slices_sent_join_to_the_frames_of_the_row(interval: int) -> None:
    reqs = [request(Stage(audio=True)) for _ in range(ROWS)]
    collect(reqs)
    for i, req in enumerate(reqs):
        chunks = [
            chunk for at in range(0, STEPS, interval) for chunk in req.customized_info[FRAMES][at : at + interval]
        ]
        assert np.array_equal(frames_of(chunks, STREAMS), FRAME_IDS[:, i])
        assert np.array_equal(spoken_frames(req), FRAME_IDS[:, i])


def test_an_empty_slice_has_no_chunk() -> None:
    req = request(Stage(audio=True))
    collect([req])
    assert req.customized_info[FRAMES][STEPS:STEPS] == []
    assert frames_of([], STREAMS).shape == (0, STREAMS)


def test_a_text_in_a_batch_with_frames_has_none() -> None:
    text = request(TEXT_STAGE)
    collect([request(Stage(audio=True)), text])
    assert text.customized_info is None
    # SGLang pads the other rows of the output with None, one per id.
    assert frames_of([None, None], STREAMS).shape == (0, STREAMS)


def test_a_guided_row_reports_the_cached_tokens_of_its_unconditional_branch() -> None:
    leader = request(Stage(audio=True, cfg=2.0))
    leader.speechlm_shadow = SimpleNamespace(cached_tokens=40)
    collect([leader])
    assert leader.customized_info[UNCONDITIONAL_CACHED] == [40] * STEPS


def test_a_row_whose_token_is_dropped_gets_no_frame() -> None:
    req = request(Stage(audio=True))
    collect([req], accepted=False)
    assert req.customized_info is None
    collect([req], FRAME_IDS[:2])
    collect([req], FRAME_IDS[2:4], accepted=False)
    assert np.array_equal(spoken_frames(req), FRAME_IDS[:2, 0])
