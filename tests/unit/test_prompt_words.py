"""Texts without anything to speak."""

import pytest

from sglang_speechlm.prompt.words import is_blank, is_speakable

BLANK = ["", " ", "\n\t\r", "\u200b\u200d\ufeff", "\u0301", "\ufe0f", "\u3000", "\u3164", "\x00", "\u2028"]
SILENT = ["...", "?!", "—", "🙂", "👍🏽", "👨\u200d👩\u200d👧", "…", "。！", "«»", "_", "^", "♪", "¿?"]
SPEAKABLE = [
    "a",
    "7",
    "7!",
    "字",
    "あ",
    "한",
    "é",
    "e\u0301",
    "ا",
    "ा क",
    "Ⅳ",
    "½",
    "²",
    "+",
    "€",
    "%",
    "&",
    "🙂 ok",
    "x" * 9,
]


@pytest.mark.parametrize("text", BLANK)
def test_invisible_text_is_blank_and_not_speakable(text: str) -> None:
    assert is_blank(text)
    assert not is_speakable(text)


@pytest.mark.parametrize("text", SILENT)
def test_punctuation_and_emoji_are_not_blank_and_not_speakable(text: str) -> None:
    assert not is_blank(text)
    assert not is_speakable(text)


@pytest.mark.parametrize("text", SPEAKABLE)
def test_letters_digits_and_signs_with_a_name_are_speakable(text: str) -> None:
    assert not is_blank(text)
    assert is_speakable(text)
