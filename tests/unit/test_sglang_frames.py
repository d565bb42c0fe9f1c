"""Frames from a step's tensor to the HTTP process: bytes that SGLang slices as if they were lists."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sglang_speechlm.sglang_hooks.req import spoken_frames
from sglang_speechlm.sglang_hooks.results import collect_frames
from sglang_speechlm.stage import FRAMES, TEXT_STAGE, UNCONDITIONAL_CACHED, Stage, frames_of

STEPS, ROWS, STREAMS = 12, 3, 8
DRAWN = torch.randint(0, 160_392, (STEPS, ROWS, STREAMS), generator=torch.Generator().manual_seed(0))


def request(stage: Stage) -> Any:
    return SimpleNamespace(speechlm_stage=stage, customized_info=None)


def collected(reqs: Sequence[Any]) -> None:
    """Collect the frames of all steps, as SGLang does: row by row, from one output of a step."""
    for frames in DRAWN:
        output = SimpleNamespace(customized_info={FRAMES: frames.clone()})
        for i, req in enumerate(reqs):
            collect_frames(None, None, i, req, output)


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


def test_a_batch_of_texts_collects_nothing() -> None:
    req = request(Stage(audio=True))
    collect_frames(None, None, 0, req, SimpleNamespace(customized_info=None))
    assert req.customized_info is None
