"""Thoughts before an answer, in whatever pieces they come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_speechlm.program.thinking import AfterThinking


def answer(pieces: list[str]) -> str:
    stream = AfterThinking()
    return "".join([*(stream.push(piece) for piece in pieces), stream.flush()])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>Hm.</think>\n\nGood day.", "Good day."),
        ("A lone end.</think> Good day. ", "Good day. "),
        ("Good day.", "Good day."),
        ("<think>Never ends", "<think>Never ends"),
        ("a</think>b</think>c", "b</think>c"),
        ("a</think>", ""),
        ("", ""),
    ],
)
def test_the_answer_follows_the_thoughts(text: str, expected: str) -> None:
    assert answer([text]) == answer(list(text)) == expected


@given(st.lists(st.sampled_from(["<think>", "</th", "ink>", "</think>", " ", "\n", "a"]), max_size=12))
def test_pieces_give_what_the_whole_gives(pieces: list[str]) -> None:
    assert answer(pieces) == answer(["".join(pieces)])
