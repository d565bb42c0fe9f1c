import numpy as np
import pytest
import soxr

from sglang_speechlm.codec import to_pcm16
from sglang_speechlm.codec.pcm import PcmStream
from sglang_speechlm.codec.windows import Context, PiecePolicy
from sglang_speechlm.codec.worker.batching import SlotTable

POLICY = PiecePolicy(ramp=(2,), largest=4)
LONGEST = 1 + 4 + 1
MANY = 1000
"""Unread pieces of a stream, more than there are."""


def make_table(**lengths: int) -> SlotTable:
    """Finished streams 0, 1, ... of the given numbers of codes; code t of every stream is [t, t]."""
    table = SlotTable(Context(1, 1), POLICY, num_stream=2, codebook_size=1000)
    for stream, length in enumerate(lengths.values()):
        table.open(stream, MANY)
        table.push(stream, np.arange(length).repeat(2).reshape(-1, 2))
        table.finish(stream)
    return table


def test_windows_of_all_streams_share_a_decode_before_any_gets_a_second() -> None:
    batch = make_table(a=50, b=50, c=50).next_batch(5 * LONGEST)
    assert [stream for stream, _, _ in batch] == [0, 1, 2, 0, 1]


def test_a_batch_holds_windows_of_one_length() -> None:
    table = make_table(a=3, b=50, c=3)
    assert [stream for stream, _, _ in table.next_batch(100)] == [0, 2]
    assert {window.length for _, window, _ in table.next_batch(100)} == {LONGEST}


def test_a_batch_exceeds_its_limit_of_codes_only_for_a_single_window() -> None:
    table = make_table(a=50, b=50, c=50)
    assert len(table.next_batch(2 * LONGEST + 1)) == 2
    assert len(table.next_batch(1)) == 1


def test_a_short_stream_does_not_wait_for_the_end_of_long_ones() -> None:
    table = make_table(a=500, b=500, c=3)
    served = [[stream for stream, _, _ in table.next_batch(LONGEST)] for _ in range(3)]
    assert served == [[0], [1], [2]]


def test_a_window_carries_the_codes_it_names_after_older_ones_were_dropped() -> None:
    table = SlotTable(Context(1, 1), POLICY, num_stream=1, codebook_size=1000)
    table.open(7, MANY)
    for first in range(0, 90, 3):
        table.push(7, np.arange(first, first + 3)[:, None])
        for _, window, codes in table.next_batch(100):
            assert codes[:, 0].tolist() == list(range(window.start, window.stop))


def test_a_stream_with_a_slow_reader_is_skipped_until_a_piece_is_taken() -> None:
    table = make_table()
    table.open(9, 2)
    table.push(9, np.zeros((50, 2), dtype=np.int64))
    assert [len(table.next_batch(10**6)) for _ in range(4)] == [1, 1, 0, 0]
    table.delivered(9)
    assert [len(table.next_batch(10**6)) for _ in range(2)] == [1, 0]


def test_a_stream_is_done_when_its_last_window_was_taken() -> None:
    table = make_table(a=4, b=50)
    assert table.pop_done() == []
    table.next_batch(1)
    assert [stream for stream, _ in table.pop_done()] == [0]
    assert len(table) == 1


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.array([[0, 1000]]), r"code 1000 of stream 1 is outside 0\.\.999"),
        (np.array([[-1, 0]]), r"code -1 of stream 0"),
        (np.zeros((3, 5), dtype=np.int64), r"shape \[n, 2\]; got int64 \[3, 5\]"),
        (np.zeros((3, 2), dtype=np.float32), r"integers of shape"),
    ],
)
def test_wrong_codes_are_refused(codes: np.ndarray, message: str) -> None:
    table = make_table()
    table.open(0, MANY)
    with pytest.raises(ValueError, match=message):
        table.push(0, codes)


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 44_100])
@pytest.mark.parametrize("size", [1, 7, 320])
def test_pieces_of_a_resampled_stream_join_to_the_resampled_whole(rate: int, size: int) -> None:
    """A window may have too few samples for a piece, which then does not count as unread."""
    samples = np.random.default_rng(rate).uniform(-1, 1, 40 * size).astype(np.float32)
    table = SlotTable(Context(1, 1), POLICY, num_stream=2, codebook_size=1000)
    table.open(3, 40, PcmStream(16_000, rate))
    table.push(3, np.zeros((40, 2), np.int64))
    table.finish(3)
    pieces = []
    while batch := table.next_batch(1):
        ((_, window, _),) = batch
        pieces.append(table.sound(3, samples[size * window.emit_start : size * window.emit_stop]))
    ((stream, rest),) = table.pop_done()
    assert stream == 3
    joined = np.concatenate([*pieces, rest])
    assert np.array_equal(joined, to_pcm16(soxr.resample(samples, 16_000, rate)))
    assert len(table) == 0


def test_decoding_does_not_wait_for_a_piece_without_samples() -> None:
    table = SlotTable(Context(1, 1), POLICY, num_stream=2, codebook_size=1000)
    table.open(3, 1, PcmStream(16_000, 24_000))
    table.push(3, np.zeros((50, 2), np.int64))
    assert [len(table.next_batch(1)), len(table.next_batch(1))] == [1, 0]
    assert len(table.sound(3, np.zeros(1, np.float32))) == 0
    assert len(table.next_batch(1)) == 1
