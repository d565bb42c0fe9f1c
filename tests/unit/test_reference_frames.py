"""The reference's delay between codec streams."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from reference import delay, undelay
from reference.tiny import tiny_config

IDS = replace(tiny_config().ids, num_stream=3, codec_begin=1000, codec_layer_size=10, vocab_size=1030)


def test_stream_s_lags_by_s_frames_and_empty_cells_are_codec_pads() -> None:
    codes = np.array([[1, 2, 3], [4, 5, 6]])
    assert delay(codes, IDS) == [
        [1002, 1010, 1020],
        [1005, 1013, 1020],
        [1000, 1016, 1024],
        [1000, 1010, 1027],
    ]


def test_cells_outside_the_codes_are_ignored() -> None:
    frames = [
        [1002, 1019, 1029],
        [1005, 1013, 1029],
        [1009, 1016, 1024],
        [1009, 1019, 1027],
    ]
    assert undelay(frames, IDS).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_a_codec_pad_inside_becomes_code_zero() -> None:
    frames = [
        [1000, 1010, 1020],
        [1005, 1013, 1020],
        [1000, 1016, 1020],
        [1000, 1010, 1027],
    ]
    assert undelay(frames, IDS).tolist() == [[0, 2, 0], [4, 5, 6]]


def test_too_few_frames_give_no_codes() -> None:
    assert undelay([[1002, 1010, 1020], [1005, 1013, 1020]], IDS).shape == (0, 3)


@given(st.lists(st.lists(st.integers(0, 8), min_size=3, max_size=3), min_size=1, max_size=20))
def test_undelay_reverses_delay(codes: list[list[int]]) -> None:
    frames = delay(np.array(codes), IDS)
    assert len(frames) == len(codes) + 2
    assert undelay(frames, IDS).tolist() == codes
