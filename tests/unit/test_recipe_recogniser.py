"""The judge's ear hears what was said, and its language models are probabilities."""

import re

import pytest
import soundfile

from sglang_speechlm.demo.questions import QUESTION
from sglang_speechlm.demo.recipe.recogniser import Recogniser, bigram, spoken_words, unigram

SENTENCES = [["one", "two", "three"], ["two", "one"], ["three", "two", "one", "two"]]


def test_words_have_neither_case_nor_punctuation() -> None:
    assert spoken_words("On Monday, at seven o'clock!") == ["on", "monday", "at", "seven", "o'clock"]


def test_each_history_shares_out_all_of_its_probability() -> None:
    text = bigram(SENTENCES)
    ones = {word: (10 ** float(p), 10 ** float(b or 0)) for p, word, b in re.findall(r"^(-\S+) (\S+)(?: (-?[\d.]+))?$",
            text.partition("\\2-grams:")[0], re.M)}  # fmt: skip
    twos = {(a, b): 10 ** float(p) for p, a, b in re.findall(r"^(-?\S+) (\S+) (\S+)$",
            text.partition("\\2-grams:")[2], re.M)}  # fmt: skip
    words = [word for word in ones if word != "<s>"]
    for history in ("<s>", "one", "two", "three"):
        total = sum(twos.get((history, word), ones[history][1] * ones[word][0]) for word in words)
        assert total == pytest.approx(1, abs=1e-3)


def test_the_uniform_model_prefers_no_word() -> None:
    probabilities = re.findall(r"^(-\S+) (?:one|two|three)$", unigram(["three", "one", "two", "one"]), re.M)
    assert len(probabilities) == 3
    assert len(set(probabilities)) == 1


def test_it_hears_the_question_that_the_demonstration_asks() -> None:
    samples, rate = soundfile.read(QUESTION, dtype="int16")
    assert rate == 16000
    words = spoken_words("What is the capital of France?")
    ear = Recogniser(unigram([*words, "color", "month", "germany", "which", "italy"]))
    assert ear.hear(samples).split() == words
