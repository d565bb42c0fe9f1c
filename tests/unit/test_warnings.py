"""Warnings of an answer: each appears once, and their header is short."""

import json

from hypothesis import given
from hypothesis import strategies as st

from sglang_speechlm.server.edge.warnings import WARNINGS_HEADER, Warnings


def warnings_of(*texts: str) -> Warnings:
    warnings = Warnings()
    warnings.add(*texts)
    return warnings


def test_without_warnings_nothing_is_added() -> None:
    assert warnings_of().headers() == {}
    assert warnings_of().member() == {}


def test_a_repeated_warning_appears_once() -> None:
    assert list(warnings_of("a", "b", "a")) == ["a", "b"]


@given(st.lists(st.text(max_size=700), min_size=1, max_size=300))
def test_a_header_of_any_warnings_is_short_ascii_on_one_line(texts: list[str]) -> None:
    warnings = warnings_of(*texts)
    (value,) = warnings.headers().values()
    assert len(value) <= 2000
    assert all(32 <= ord(character) < 127 for character in value)
    assert json.loads(value)


def test_warnings_that_do_not_fit_in_the_header_are_counted() -> None:
    warnings = warnings_of(*(f"warning {number}: {'é' * 100}" for number in range(20)))
    *shown, last = json.loads(warnings.headers()[WARNINGS_HEADER])
    assert shown == list(warnings)[: len(shown)]
    assert last == f"and {20 - len(shown)} more"
