from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_speechlm.codec.windows import Context, PiecePolicy, Window, WindowPlanner

CONTEXT = Context(left=3, right=2)
POLICY = PiecePolicy(ramp=(1, 2, 4), largest=8)
MAX_LENGTH = 3 + 8 + 2


def plan(planner: WindowPlanner) -> list[Window]:
    windows = []
    while window := planner.peek():
        planner.advance(window)
        windows.append(window)
    return windows


def windows_of_file(length: int) -> list[Window]:
    planner = WindowPlanner(CONTEXT, POLICY)
    planner.push(length)
    planner.finish()
    return plan(planner)


@given(st.lists(st.integers(0, 20), max_size=12))
def test_windows_emit_every_code_once_and_with_its_context(pushes: list[int]) -> None:
    total = sum(pushes)
    planner = WindowPlanner(CONTEXT, POLICY)
    windows = []
    available = 0
    for count in pushes:
        planner.push(count)
        available += count
        new = plan(planner)
        assert all(window.stop <= available for window in new)
        windows += new
    planner.finish()
    windows += plan(planner)
    assert planner.done
    assert [window.emit_start for window in windows] == [0, *(window.emit_stop for window in windows)][: len(windows)]
    assert (windows[-1].emit_stop if windows else 0) == total
    for window in windows:
        assert window.emit_start < window.emit_stop
        assert window.start == 0 or window.emit_start - window.start >= CONTEXT.left
        assert window.stop == total or window.stop - window.emit_stop >= CONTEXT.right
        assert window.length <= MAX_LENGTH


@given(st.lists(st.integers(0, 20), max_size=12))
def test_no_window_starts_before_the_codes_that_are_kept(pushes: list[int]) -> None:
    planner = WindowPlanner(CONTEXT, POLICY)
    for count in pushes:
        planner.push(count)
        kept = planner.keep_from
        assert all(window.start >= kept for window in plan(planner))
    planner.finish()
    kept = planner.keep_from
    assert all(window.start >= kept for window in plan(planner))


@pytest.mark.parametrize("length", range(MAX_LENGTH, 80))
def test_complete_files_are_cut_into_windows_of_few_lengths(length: int) -> None:
    windows = windows_of_file(length)
    assert {window.length for window in windows} <= {3 + size + 2 for size in POLICY.sizes}
    assert all(window.length == MAX_LENGTH for window in windows[:-1])
    assert (windows[0].start, windows[-1].stop) == (0, length)


@pytest.mark.parametrize("length", range(1, MAX_LENGTH))
def test_a_file_shorter_than_a_window_is_decoded_at_its_own_length(length: int) -> None:
    assert windows_of_file(length) == [Window(0, length, 0, length)]


def test_an_empty_stream_is_done_without_a_window() -> None:
    planner = WindowPlanner(CONTEXT, POLICY)
    planner.finish()
    assert planner.peek() is None
    assert planner.done


def test_pieces_start_small_and_follow_the_ramp_when_codes_come_one_by_one() -> None:
    planner = WindowPlanner(CONTEXT, POLICY)
    windows = []
    for _ in range(40):
        planner.push(1)
        windows += plan(planner)
    assert [window.emit_stop - window.emit_start for window in windows][:5] == [1, 2, 4, 4, 4]
    assert windows[0].stop == 1 + CONTEXT.right


def test_a_decoder_that_is_behind_gets_larger_pieces() -> None:
    planner = WindowPlanner(CONTEXT, POLICY)
    planner.push(30)
    assert [window.emit_stop - window.emit_start for window in plan(planner)] == [8, 8, 8, 4]


def test_windows_have_the_same_lengths_however_codes_arrive() -> None:
    lengths = set()
    for step in (1, 2, 3, 5, 7):
        planner = WindowPlanner(CONTEXT, POLICY)
        windows = []
        for _ in range(100):
            planner.push(step)
            windows += plan(planner)
        lengths |= {window.length for window in windows if window.emit_start >= 8}
    assert lengths <= {3 + size + 2 for size in POLICY.sizes}


@pytest.mark.parametrize("rate", [1.25, 2.0, 4.0])
def test_the_default_ramp_never_starves_a_client_that_plays_at_once(rate: float) -> None:
    planner = WindowPlanner(Context(10, 10), PiecePolicy())
    emitted: list[tuple[float, int, int]] = []  # time in codes played, first and last code of the piece
    for count in range(1, 2000):
        planner.push(1)
        emitted += [(count / rate, window.emit_start, window.emit_stop) for window in plan(planner)]
    begin = emitted[0][0]
    assert all(time - begin <= first for time, first, _ in emitted)
    assert all(stop == start for (_, _, stop), (_, start, _) in pairwise(emitted))


@pytest.mark.parametrize("ramp", [(), (0, 4), (4, 200)])
def test_a_ramp_without_usable_sizes_is_refused(ramp: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ramp must contain sizes in"):
        PiecePolicy(ramp=ramp)
