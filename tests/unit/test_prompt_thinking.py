"""Thinking and the answer that follows it, in whatever pieces they come."""

from collections.abc import Iterable
from functools import reduce
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_speechlm.prompt.thinking import END, START, Reasoning, Split, ThinkingSplitter, join, split

PIECES = st.lists(
    st.sampled_from(["<think>", "<thi", "nk>", "</th", "ink>", "</think>", "<", " ", "\n", "a"]), max_size=12
)
MODES = st.sampled_from(get_args(Reasoning))


def streamed(pieces: Iterable[str], mode: Reasoning) -> Split:
    splitter = ThinkingSplitter(mode)
    return reduce(Split.then, [*(splitter.push(piece) for piece in pieces), splitter.flush()])


TAGGED = "<think>Hm.</think>\n\nGood day."
LONE = "A lone end.</think> Good day. "


@pytest.mark.parametrize(
    ("mode", "text", "reasoning", "content"),
    [
        ("none", TAGGED, None, TAGGED),
        ("none", LONE, None, LONE),
        ("think", TAGGED, "Hm.", "\n\nGood day."),
        ("think", LONE, None, LONE),
        ("think", "Good day.", None, "Good day."),
        ("think", "<think>Never ends", "Never ends", ""),
        ("think", "<think>a</think>b</think>c", "a", "b</think>c"),
        ("think", "<think></think>a", "", "a"),
        ("think", "<think>", "", ""),
        ("think", "<thin", None, "<thin"),
        ("think", " <think>a</think>b", None, " <think>a</think>b"),
        ("think", "", None, ""),
        ("lone", TAGGED, "Hm.", "\n\nGood day."),
        ("lone", LONE, "A lone end.", " Good day. "),
        ("lone", "Good day.", None, "Good day."),
        ("lone", "<think>Never ends", "Never ends", ""),
        ("lone", "a</think>b</think>c", "a", "b</think>c"),
        ("lone", "a</think>", "a", ""),
        ("lone", "</think>a", "", "a"),
        ("lone", "a</thin", None, "a</thin"),
    ],
)
def test_thinking_is_told_from_the_answer(mode: Reasoning, text: str, reasoning: str | None, content: str) -> None:
    assert split(text, mode) == streamed(text, mode) == (reasoning, content)


@given(PIECES, MODES)
def test_pieces_give_what_the_whole_gives(pieces: list[str], mode: Reasoning) -> None:
    assert streamed(pieces, mode) == split("".join(pieces), mode)


@given(PIECES, MODES)
def test_nothing_is_lost_but_the_tags(pieces: list[str], mode: Reasoning) -> None:
    text = "".join(pieces)
    reasoning, content = split(text, mode)
    if reasoning is None:
        assert content == text
    else:
        assert text in (join(reasoning, content), f"{reasoning}{END}{content}", START + reasoning)


@given(st.text().filter(lambda text: END not in text), st.text(), st.sampled_from(["think", "lone"]))
def test_what_was_joined_is_split_again(reasoning: str, content: str, mode: Reasoning) -> None:
    assert split(join(reasoning, content), mode) == (reasoning, content)


@given(PIECES)
def test_tagged_thinking_is_given_as_it_comes(pieces: list[str]) -> None:
    splitter = ThinkingSplitter("lone")
    splitter.push(START)
    came = given = ""
    for piece in pieces:
        came += piece
        if END in came:
            break
        given += splitter.push(piece).reasoning or ""
        assert came.startswith(given)
        assert len(came) - len(given) < len(END)


def test_what_may_be_before_a_lone_end_is_held_back() -> None:
    splitter = ThinkingSplitter("lone")
    assert splitter.push("A plan") == (None, "")
    assert splitter.push("</think>Good") == ("A plan", "Good")
    assert splitter.push(" day.") == (None, " day.")
