"""The judge's recogniser hears what was said, and its language models are probability distributions."""

import re

import pytest
import soundfile

from sglang_speechlm.demo.questions import QUESTION
from sglang_speechlm.demo.recipe.recogniser import Recogniser, bigram, spoken_words, unigram

SENTENCES = [["one", "two", "three"], ["two", "one"], ["three", "two", "one", "two"]]


def test_words_have_neither_case_nor_punctuation() -> None:
    assert spoken_words("On Monday, at seven o'clock!") == ["on", "monday", "at", "seven", "o'clock"]


def test_the_probabilities_after_each_history_add_up_to_one() -> None:
    text = bigram(SENTENCES)
    unigrams = {word: (10 ** float(p), 10 ** float(b or 0)) for p, word, b in re.findall(
            r"^(-\S+) (\S+)(?: (-?[\d.]+))?$", text.partition("\\2-grams:")[0], re.M)}  # fmt: skip
    bigrams = {(a, b): 10 ** float(p) for p, a, b in re.findall(r"^(-?\S+) (\S+) (\S+)$",
            text.partition("\\2-grams:")[2], re.M)}  # fmt: skip
    words = [word for word in unigrams if word != "<s>"]
    for history in ("<s>", "one", "two", "three"):
        total = sum(bigrams.get((history, word), unigrams[history][1] * unigrams[word][0]) for word in words)
        assert total == pytest.approx(1, abs=1e-3)


def test_the_uniform_model_gives_all_words_the_same_probability() -> None:
    probabilities = re.findall(r"^(-\S+) (?:one|two|three)$", unigram(["three", "one", "two", "one"]), re.M)
    assert len(probabilities) == 3
    assert len(set(probabilities)) == 1


def test_the_question_of_the_demo_is_recognised() -> None:
    samples, rate = soundfile.read(QUESTION, dtype="int16")
    assert rate == 16000
    words = spoken_words("What is the capital of France?")
    recogniser = Recogniser(unigram([*words, "color", "month", "germany", "which", "italy"]))
    assert recogniser.hear(samples).split() == words
