"""The encoder's length formula against real convolutions."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from sglang_speechlm.audio import encoder_length
from sglang_speechlm.audio.lengths import conv_length


@cache
def convolved(frames: int) -> int:
    x = torch.zeros(1, 1, frames)
    for _ in range(3):
        x = functional.conv1d(x, torch.ones(1, 1, 3), stride=2, padding=1)
    return x.shape[-1]


@given(st.integers(1, 3000))
def test_conv_length_is_that_of_three_convolutions(frames: int) -> None:
    assert conv_length(frames) == convolved(frames)


@given(st.integers(1, 3000), st.sampled_from([1, 13, 25, 50, 100]))
def test_encoder_length_is_the_sum_over_chunks(frames: int, n_window: int) -> None:
    chunks = torch.zeros(frames).split(2 * n_window)
    assert encoder_length(frames, n_window) == sum(convolved(len(chunk)) for chunk in chunks)


@pytest.mark.parametrize(
    ("frames", "n_window", "length"),
    [(0, 50, 0), (1, 50, 1), (1000, 50, 130), (3000, 50, 390), (1000, 100, 125), (3000, 100, 375), (250, 100, 32)],
)
def test_known_lengths(frames: int, n_window: int, length: int) -> None:
    assert encoder_length(frames, n_window) == length
