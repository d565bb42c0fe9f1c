"""Loops are found in a text that repeats itself endlessly, and never in what people repeat."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_speechlm.program.loops import LoopWatch

texts = st.lists(st.integers(0, 5), max_size=80)


def kept_ids(ids: list[int]) -> int | None:
    """The number of ids kept when a loop is found; None if there is no loop."""
    watch = LoopWatch()
    return next((watch.settled for index in ids if watch.push(index)), None)


@given(texts, st.lists(st.integers(0, 1000), min_size=1, max_size=64))
def test_endless_repetition_is_a_loop_of_which_at_most_the_first_round_is_kept(
    before: list[int], unit: list[int]
) -> None:
    kept = kept_ids(before + unit * 120)
    assert kept is not None
    assert kept <= len(before) + len(unit)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=64, unique=True))
def test_the_text_before_a_loop_and_its_first_round_are_kept(unit: list[int]) -> None:
    assert kept_ids([2000, 2001, *unit * 120]) == 2 + len(unit)


@given(st.lists(st.integers(0, 2), max_size=99))
def test_a_short_text_is_never_a_loop(ids: list[int]) -> None:
    assert kept_ids(ids) is None


@given(texts, st.lists(st.integers(0, 1000), min_size=65, max_size=80, unique=True), st.integers(1, 9))
@settings(max_examples=30)
def test_a_repeated_long_passage_is_not_a_loop(before: list[int], passage: list[int], rounds: int) -> None:
    assert kept_ids(before + passage * rounds) is None


@pytest.mark.parametrize(
    ("unit", "rounds"),
    [([7], 90), ([7, 8], 45), ([3, 1, 4], 30), (list(range(20)), 7), (list(range(64)), 7)],
    ids=["no no no", "no, no,", "a chant", "a refrain", "a verse"],
)
def test_repetition_that_is_usual_in_speech_is_not_a_loop(unit: list[int], rounds: int) -> None:
    assert kept_ids(unit * rounds) is None


@given(st.lists(st.integers(0, 3), max_size=300))
def test_the_settled_length_never_falls_or_exceeds_the_text(ids: list[int]) -> None:
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
