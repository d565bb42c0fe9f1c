"""The sentences that the demo model is taught to say."""

import re
from collections import Counter
from random import Random

import pytest
from pocketsphinx import get_model_path

from sglang_speechlm.demo.recipe import corpus
from sglang_speechlm.demo.recipe.requests import Requests
from sglang_speechlm.demo.recipe.speech import spoken_texts
from sglang_speechlm.demo.recipe.words import clock, ordinal, spelled


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "zero"), (13, "thirteen"), (20, "twenty"), (47, "forty seven"), (100, "one hundred"),
     (347, "three hundred forty seven"), (999, "nine hundred ninety nine")],
)  # fmt: skip
def test_numbers_are_spelled(number: int, words: str) -> None:
    assert spelled(number) == words


def test_no_two_numbers_are_spelled_alike() -> None:
    assert len({spelled(number) for number in range(1000)}) == 1000
    assert len({ordinal(number) for number in range(1, 32)}) == 31
    assert ordinal(23) == "twenty third"


def test_times_are_spelled() -> None:
    assert clock(7, 0) == "seven o'clock"
    assert clock(7, 5) == "seven o five"
    assert clock(12, 45) == "twelve forty five"


def test_held_out_sentences_cover_all_templates_and_are_not_in_training_texts() -> None:
    train, held_out = corpus.split(2000)
    texts = {sentence.text for sentence in held_out}
    assert len(texts) == corpus.HELD_OUT
    assert texts.isdisjoint(spoken_texts(train))
    counts = Counter(sentence.template for sentence in held_out)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_the_same_seed_gives_the_same_sentences() -> None:
    assert corpus.split(500) == corpus.split(500)
    assert corpus.sentences(50, 1) != corpus.sentences(50, 2)


def test_there_are_a_hundred_questions_with_a_hundred_answers() -> None:
    answers = corpus.fixed_answers()
    assert len(answers) == len(set(answers.values())) == 100


def test_all_words_are_in_the_recognisers_dictionary() -> None:
    with open(get_model_path("en-us/cmudict-en-us.dict")) as lines:
        known = {line.split()[0] for line in lines}
    texts = spoken_texts(corpus.split(3000)[0])
    assert {word for text in texts for word in re.findall(r"[a-z']+", text.lower())} <= known


def test_turns_never_contain_a_held_out_sentence() -> None:
    _, held_out = corpus.split(2000)
    requests = Requests(held_out, Random(0))
    replies = {requests.exchange().reply for _ in range(5000)}
    assert replies.isdisjoint(sentence.text for sentence in held_out)


def test_a_fixed_question_is_never_among_the_unknown_ones() -> None:
    requests = Requests([], Random(0))
    questions = corpus.fixed_answers()
    for _ in range(3000):
        exchange = requests.unknown()
        assert exchange.reply in corpus.UNKNOWN
        assert exchange.user not in questions
