"""Loops: found where a text repeats itself without end, and never in what people repeat."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_speechlm.program.loops import LoopWatch

texts = st.lists(st.integers(0, 5), max_size=80)


def ended(ids: list[int]) -> int | None:
    """How many ids are kept where the loop is found; None if there is none."""
    watch = LoopWatch()
    return next((watch.settled for index in ids if watch.push(index)), None)


@given(texts, st.lists(st.integers(0, 1000), min_size=1, max_size=64))
def test_a_unit_without_end_is_a_loop_and_its_first_round_is_kept(before: list[int], unit: list[int]) -> None:
    kept = ended(before + unit * 120)
    assert kept is not None
    assert kept <= len(before) + len(unit)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=64, unique=True))
def test_what_stands_before_a_loop_is_whole(unit: list[int]) -> None:
    assert ended([2000, 2001, *unit * 120]) == 2 + len(unit)


@given(st.lists(st.integers(0, 2), max_size=99))
def test_a_short_text_is_never_a_loop(ids: list[int]) -> None:
    assert ended(ids) is None


@given(texts, st.lists(st.integers(0, 1000), min_size=65, max_size=80, unique=True), st.integers(1, 9))
def test_a_long_passage_said_again_is_no_loop(before: list[int], passage: list[int], rounds: int) -> None:
    assert ended(before + passage * rounds) is None


@pytest.mark.parametrize(
    ("unit", "rounds"),
    [([7], 90), ([7, 8], 45), ([3, 1, 4], 30), (list(range(20)), 7), (list(range(64)), 7)],
    ids=["no no no", "no, no,", "a chant", "a refrain", "a verse"],
)
def test_what_people_repeat_is_no_loop(unit: list[int], rounds: int) -> None:
    assert ended(unit * rounds) is None


@given(st.lists(st.integers(0, 3), max_size=300))
def test_what_is_settled_never_falls_and_is_never_more_than_came(ids: list[int]) -> None:
    watch = LoopWatch()
    before = 0
    for count, index in enumerate(ids, 1):
        watch.push(index)
        assert before <= watch.settled <= count
        before = watch.settled


@given(st.lists(st.integers(0, 1000), unique=True, max_size=300))
def test_a_text_without_repetition_is_settled_at_once(ids: list[int]) -> None:
    watch = LoopWatch()
    for count, index in enumerate(ids, 1):
        assert not watch.push(index)
        assert watch.settled == count
