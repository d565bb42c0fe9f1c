"""Long texts in passages: every word once and in order, sentences whole where they can be."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_speechlm.prompt.passages import passages


def test_sentences_are_joined_while_they_fit() -> None:
    assert passages("One two. Three four! Five six? Seven.", 20) == ["One two. Three four!", "Five six? Seven."]


def test_a_sentence_of_more_than_the_limit_stands_alone() -> None:
    assert passages("Yes. This one has more than ten. No.", 20) == ["Yes.", "This one has more than ten.", "No."]


@pytest.mark.parametrize(
    "text", ["Dr. A. Smith paid 3.50 dollars. He left.", 'He said "Stop." Then he left.', "Wait … what? No: yes."]
)
def test_it_is_cut_where_a_sentence_ends(text: str) -> None:
    found = passages(text, 16)
    assert " ".join(found) == text
    assert not any(part.endswith(("Dr.", "A.", "3.")) for part in found)


def test_chinese_is_cut_without_spaces() -> None:
    assert passages("今天天气很好。我们去公园吧！", 8) == ["今天天气很好。", "我们去公园吧！"]


def test_lines_are_sentences() -> None:
    assert passages("A title\n\nIts text goes on", 10) == ["A title", "Its text goes on"]


def test_a_sentence_without_end_is_cut_at_clauses_and_words() -> None:
    found = passages("one two three four, " * 10, 20)
    assert all(len(part) <= 40 for part in found)
    assert all(part.endswith(("four,", "four")) for part in found)
    assert all(len(part) <= 40 for part in passages("x" * 1000, 20))


def test_punctuation_and_emoji_are_no_passage() -> None:
    assert passages("\n...\n🙂\nHello there.\n", 15) == ["Hello there."]


def test_a_run_of_white_space_is_searched_once() -> None:
    assert passages("One." + " " * 400_000 + "two", 400) == ["One.", "two"]
    assert passages("One" + " \t" * 200_000 + "two", 400) == ["One", "two"]


@given(st.text(st.sampled_from("ab .,!?\n。Dr'"), max_size=200), st.integers(1, 30))
def test_no_word_is_lost_or_said_twice(text: str, most: int) -> None:
    def letters(text: str) -> str:
        return re.sub(r"[^abDr]", "", text)

    found = passages(text, most)
    assert letters("".join(found)) == letters(text)
    assert all(len(part) <= 2 * most for part in found)
