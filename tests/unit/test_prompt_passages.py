"""Long texts in passages: every word once and in order, with sentences kept whole if possible."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_speechlm.prompt.passages import passages


def test_sentences_are_joined_while_they_fit() -> None:
    assert passages("One two. Three four! Five six? Seven.", 20) == ["One two. Three four!", "Five six? Seven."]


def test_a_sentence_longer_than_the_limit_is_its_own_passage() -> None:
    assert passages("Yes. This one has more than ten. No.", 20) == ["Yes.", "This one has more than ten.", "No."]


@pytest.mark.parametrize(
    "text", ["Dr. A. Smith paid 3.50 dollars. He left.", 'He said "Stop." Then he left.', "Wait … what? No: yes."]
)
def test_a_text_is_cut_at_the_end_of_a_sentence(text: str) -> None:
    parts = passages(text, 16)
    assert " ".join(parts) == text
    assert not any(part.endswith(("Dr.", "A.", "3.")) for part in parts)


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("We left at 10 p.m. on a train.", "We left at 10 p.m. on a train."),
        ("Use e.g. a train.", "Use e.g. a train."),
        ("See Fig. 3 and No. 7 now.", "See Fig. 3 and No. 7 now."),
        ("1. Egg\n2. Two large cups", "1. Egg"),
        ("كيف حالك؟ أنا بخير.", "كيف حالك؟"),
        ("वह घर गया। वह सोया।", "वह घर गया।"),
    ],
)
def test_sentences_end_at_the_marks_of_all_scripts_but_not_at_abbreviations_and_list_numbers(
    text: str, first: str
) -> None:
    assert passages(text, 1 + len(text) // 2)[0] == first


def test_chinese_is_cut_without_spaces() -> None:
    assert passages("今天天气很好。我们去公园吧！", 8) == ["今天天气很好。", "我们去公园吧！"]


def test_a_line_ends_a_sentence() -> None:
    assert passages("A title\n\nIts text goes on", 10) == ["A title", "Its text goes on"]


def test_a_sentence_without_end_is_cut_at_clauses_and_words() -> None:
    parts = passages("one two three four, " * 10, 20)
    assert all(len(part) <= 40 for part in parts)
    assert all(part.endswith(("four,", "four")) for part in parts)
    assert all(len(part) <= 40 for part in passages("x" * 1000, 20))


def test_punctuation_and_emoji_alone_are_not_a_passage() -> None:
    assert passages("\n...\n🙂\nHello there.\n", 15) == ["Hello there."]


def test_a_run_of_white_space_is_scanned_once() -> None:
    assert passages("One." + " " * 400_000 + "two", 400) == ["One.", "two"]
    assert passages("One" + " \t" * 200_000 + "two", 400) == ["One", "two"]


@given(st.text(st.sampled_from("ab .,!?\n。Dr'"), max_size=200), st.integers(1, 30))
def test_no_word_is_lost_or_repeated(text: str, limit: int) -> None:
    def letters(text: str) -> str:
        return re.sub(r"[^abDr]", "", text)

    parts = passages(text, limit)
    assert letters("".join(parts)) == letters(text)
    assert all(len(part) <= 2 * limit for part in parts)
