import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_speechlm.codec import Deinterleaver, interleave
from sglang_speechlm.config import Ids, SpeechLMConfig


def make_ids(num_stream: int, codec_layer_size: int) -> Ids:
    return SpeechLMConfig(num_stream=num_stream, codec_layer_size=codec_layer_size).ids


@st.composite
def ids_and_codes(draw: st.DrawFn) -> tuple[Ids, np.ndarray]:
    ids = make_ids(draw(st.integers(1, 9)), draw(st.integers(2, 40)))
    length = draw(st.integers(0, 12))
    seed = draw(st.integers(0, 2**32 - 1))
    return ids, np.random.default_rng(seed).integers(0, ids.codebook_size, (length, ids.num_stream))


@given(ids_and_codes())
def test_deinterleaving_restores_interleaved_codes(case: tuple[Ids, np.ndarray]) -> None:
    ids, codes = case
    assert np.array_equal(Deinterleaver(ids).push(interleave(codes, ids)), codes)


def test_code_t_of_stream_s_is_in_frame_t_plus_s_between_codec_pads() -> None:
    ids = make_ids(3, 5)
    base = ids.codec_begin
    assert interleave(np.array([[0, 1, 2], [3, 2, 1]]), ids).tolist() == [
        [base + 1, base + 5, base + 10],
        [base + 4, base + 7, base + 10],
        [base, base + 8, base + 13],
        [base, base + 5, base + 12],
    ]


@given(ids_and_codes(), st.integers(0, 2**32 - 1))
def test_cells_before_the_start_and_after_the_end_are_ignored(case: tuple[Ids, np.ndarray], seed: int) -> None:
    ids, codes = case
    frames = interleave(codes, ids)
    row, stream = np.indices(frames.shape)
    outer = (row < stream) | (row >= stream + len(codes))
    frames[outer] = np.random.default_rng(seed).integers(0, ids.vocab_size, int(outer.sum()))
    assert np.array_equal(Deinterleaver(ids).push(frames), codes)


def test_a_codec_pad_inside_becomes_code_0() -> None:
    ids = make_ids(3, 5)
    frames = interleave(np.full((4, 3), 2), ids)
    frames[1 + 2, 2] = ids.codec_pad(2)
    assert Deinterleaver(ids).push(frames).tolist() == [[2, 2, 2], [2, 2, 0], [2, 2, 2], [2, 2, 2]]


@pytest.mark.parametrize("count", range(5))
def test_too_few_frames_give_no_code(count: int) -> None:
    ids = make_ids(5, 9)
    assert Deinterleaver(ids).push(np.zeros((count, 5), dtype=np.int64)).shape == (max(count - 4, 0), 5)


def test_an_id_of_another_stream_is_refused_by_cell() -> None:
    ids = make_ids(3, 5)
    frames = interleave(np.zeros((4, 3), dtype=np.int64), ids)
    frames[2, 1] = ids.codec_pad(2) + 1
    with pytest.raises(ValueError, match=rf"id {ids.codec_pad(2) + 1} in frame 2 does not belong to stream 1"):
        Deinterleaver(ids).push(frames)


def test_a_code_outside_its_codebook_is_refused() -> None:
    with pytest.raises(ValueError, match=r"code 4 of stream 1 at 0 is outside 0\.\.3"):
        interleave(np.array([[0, 4, 0]]), make_ids(3, 5))


@pytest.mark.parametrize("shape", [(4, 2), (4,), (1, 4, 3)])
def test_frames_of_another_width_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"frames must have shape \[n, 3\]"):
        Deinterleaver(make_ids(3, 5)).push(np.zeros(shape, dtype=np.int64))


@given(ids_and_codes(), st.lists(st.integers(0, 20), max_size=6))
def test_frames_pushed_in_pieces_give_the_same_codes(case: tuple[Ids, np.ndarray], cuts: list[int]) -> None:
    ids, codes = case
    deinterleaver = Deinterleaver(ids)
    pieces = np.split(interleave(codes, ids), sorted(cuts))
    assert np.array_equal(np.concatenate([deinterleaver.push(piece) for piece in pieces]), codes)
