"""Thinking and the answer that follows it, however the text is cut into pieces."""

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
def test_thinking_is_separated_from_the_answer(mode: Reasoning, text: str, reasoning: str | None, content: str) -> None:
    assert split(text, mode) == streamed(text, mode) == (reasoning, content)


@given(PIECES, MODES)
def test_pieces_give_the_same_result_as_the_whole(pieces: list[str], mode: Reasoning) -> None:
    assert streamed(pieces, mode) == split("".join(pieces), mode)


@given(PIECES, MODES)
def test_only_the_tags_are_lost(pieces: list[str], mode: Reasoning) -> None:
    text = "".join(pieces)
    reasoning, content = split(text, mode)
    if reasoning is None:
        assert content == text
    else:
        assert text in (join(reasoning, content), f"{reasoning}{END}{content}", START + reasoning)


@given(st.text().filter(lambda text: END not in text), st.text(), st.sampled_from(["think", "lone"]))
def test_splitting_reverses_joining(reasoning: str, content: str, mode: Reasoning) -> None:
    assert split(join(reasoning, content), mode) == (reasoning, content)


@given(PIECES)
def test_tagged_thinking_is_streamed(pieces: list[str]) -> None:
    splitter = ThinkingSplitter("lone")
    splitter.push(START)
    received = output = ""
    for piece in pieces:
        received += piece
        if END in received:
            break
        output += splitter.push(piece).reasoning or ""
        assert received.startswith(output)
        assert len(received) - len(output) < len(END)


def test_text_that_may_precede_a_lone_end_tag_is_held_back() -> None:
    splitter = ThinkingSplitter("lone")
    assert splitter.push("A plan") == (None, "")
    assert splitter.push("</think>Good") == ("A plan", "Good")
    assert splitter.push(" day.") == (None, " day.")
