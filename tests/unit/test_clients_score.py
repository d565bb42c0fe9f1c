"""How the clients judge whether an answer is right."""

from typing import Any

import orjson
import pytest
from core.answer import after_thinking, read_answer
from core.lines import Line
from core.score import is_right, is_right_for_mmau, scored
from core.summary import accuracy_of, accuracy_rows
from core.tally import Tally
from hypothesis import given, settings
from hypothesis import strategies as st

WORDS = st.lists(st.from_regex(r"[a-z]{2,8}", fullmatch=True), min_size=1, max_size=3).map(" ".join)
CHOICES = st.lists(WORDS, min_size=2, max_size=5, unique_by=lambda text: frozenset(text.split()))


@settings(max_examples=40)
@given(CHOICES, st.data())
def test_the_right_choice_is_right_in_any_form(choices: list[str], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(choices) - 1))
    letter = "ABCDE"[place]
    labelled = [f"({'ABCDE'[i]}) {choice}" for i, choice in enumerate(choices)]
    for answer in (choices[place], labelled[place], letter, f"({letter})"):
        for options in (choices, labelled):
            for prediction in (
                choices[place],
                choices[place].upper() + ".",
                f"{letter}.",
                f"({letter}) {choices[place]}",
            ):
                assert is_right(prediction, answer, options), (prediction, answer, options)


@settings(max_examples=40)
@given(CHOICES, st.data())
def test_another_choice_is_wrong(choices: list[str], data: st.DataObject) -> None:
    right, wrong = data.draw(st.permutations(range(len(choices))).map(lambda order: order[:2]))
    only_in_wrong = set(choices[wrong].split()) - set(choices[right].split())
    if only_in_wrong:
        assert not is_right(choices[wrong], choices[right], choices)
        assert not is_right(f"{choices[right]} or {choices[wrong]}", choices[right], choices)
    assert not is_right("ABCDE"[wrong], choices[right], choices)


@given(WORDS, st.text(max_size=30))
def test_without_choices_the_prediction_must_contain_the_words_of_the_answer(answer: str, other: str) -> None:
    assert is_right(f"I think: {answer.title()}!", answer)
    assert is_right(other, other)


@pytest.mark.parametrize(
    ("prediction", "answer", "choices", "right"),
    [
        ("", "cat", (), False),
        ("concatenate", "cat", (), False),
        ("a cat sat", "cat sat", (), True),
        ("cat a sat", "cat sat", (), False),
        ("", "cat", ("cat", "dog"), False),
        ("The cat, not the dog", "cat", ("cat", "dog"), False),
        ("a grey cat", "grey cat", ("grey cat", "black cat"), True),
        ("a cat", "grey cat", ("grey cat", "black cat"), False),
        ("E", "cat", ("cat", "dog"), False),
        ("b", "B", ("A", "B"), True),
        ("A", "B", ("B", "A"), False),
        ("dog", "cat", ("mouse", "rat"), False),
        ("B. Dog", "dog", ("A. cat", "B. dog"), True),
        ("+", "+", ("+", "-"), True),
        ("-", "+", ("+", "-"), False),
        ("ＣＡＴ", "cat", (), True),
        ("-5", "5", (), False),
        ("C# minor", "C minor", (), False),
    ],
)
def test_answers_are_matched(prediction: str, answer: str, choices: tuple[str, ...], right: bool) -> None:
    assert is_right(prediction, answer, choices) is right


NOTES = ("C major", "C# major", "C minor", "C# minor")
ORDERS = ("a bell, then a dog", "a dog, then a bell")
NUMBERS = ("5", "-5", "0.5", "50%")


@pytest.mark.parametrize(
    "choices", [NOTES, ORDERS, NUMBERS, ("C", "C++", "C#"), ("x > y", "x < y"), ("cat", "cat, dog")]
)
@pytest.mark.parametrize(
    "form", ["{}", " {}\n", "{}.", '"{}"', "**{}**", "({letter}) {}", "{letter}. {}", "{letter}) {}"]
)
def test_a_prediction_that_is_a_choice_is_that_choice(choices: tuple[str, ...], form: str) -> None:
    for place, choice in enumerate(choices):
        prediction = form.format(choice, letter="ABCD"[place])
        assert [is_right(prediction, other, choices) for other in choices] == [other == choice for other in choices]


@pytest.mark.parametrize("form", ["{}", "({})", "{}.", " {})", "[{}]", "**{}**"])
def test_a_letter_is_the_choice_at_its_position(form: str) -> None:
    for place, letter in enumerate("ABCD"):
        right = [is_right(form.format(letter), choice, NOTES) for choice in NOTES]
        assert right == [other == place for other in range(4)]


@pytest.mark.parametrize(
    ("prediction", "answer", "choices"),
    [
        ("The chord is C# minor, I think.", "C# minor", NOTES),
        ("First a bell, then a dog barks: a bell, then a dog.", "a bell, then a dog", ORDERS),
        ("The temperature is -5 degrees.", "-5", NUMBERS),
        ("It is a cat, dog", "cat, dog", ("cat", "cat, dog")),
    ],
)
def test_a_choice_inside_a_sentence_is_only_that_choice(prediction: str, answer: str, choices: tuple[str, ...]) -> None:
    assert [choice for choice in choices if is_right(prediction, choice, choices)] == [answer]


def test_an_ambiguous_prediction_matches_no_choice() -> None:
    assert not any(is_right("the dog and the bell", choice, ORDERS) for choice in ORDERS)
    assert not is_right("C# is not the C of the major scale", "C major", NOTES)


@pytest.mark.parametrize(
    ("prediction", "answer", "choices", "right"),
    [
        ("C minor", "C# minor", NOTES, True),
        ("a dog, then a bell", "a bell, then a dog", ORDERS, True),
        ("5", "-5", NUMBERS[:2], True),
        ("a grey cat", "grey cat", ("grey cat", "black cat"), True),
        ("the cat, not the dog", "cat", ("cat", "dog"), False),
        ("B", "dog", ("cat", "dog"), False),
        ("", "", ("", "x"), False),
    ],
)
def test_mmaus_scorer_compares_sets_of_words(
    prediction: str, answer: str, choices: tuple[str, ...], right: bool
) -> None:
    assert is_right_for_mmau(prediction, answer, choices) is right


def test_both_scores_are_recorded_if_they_differ() -> None:
    fields = scored("C minor", "C# minor", Line("a", (), choices=NOTES))
    assert (fields["right"], fields["right_for_mmau"]) == (False, True)


RECORD: dict[str, Any] = {
    **{"finish_reason": "stop", "warnings": [], "seconds": 1.0, "audio_seconds": 0.0, "finished": 1e9},
    **{"prompt_tokens": 1, "completion_tokens": 2, "audio_tokens": 0},
}


# Thinking before the answer


def parsed_text(content: str | None, reasoning: str | None = None) -> str:
    message = {"content": content, "reasoning_content": reasoning}
    return read_answer(orjson.dumps({"choices": [{"message": message, "finish_reason": "stop"}]})).text


@pytest.mark.parametrize(
    ("content", "reasoning", "final"),
    [
        ("<think>cat or dog</think> dog", None, "dog"),
        ("cat or dog</think>\n\ndog", None, "dog"),
        ("a</think>b</think>dog", None, "dog"),
        ("dog", "cat or dog", "dog"),
        ("dog", None, None),
        ("<think>without an end", None, None),
        (None, None, None),
    ],
)
def test_the_answer_is_what_follows_the_thinking(content: str | None, reasoning: str | None, final: str | None) -> None:
    assert after_thinking(parsed_text(content, reasoning)) == final


def test_thinking_is_not_scored() -> None:
    line = Line("a", (), choices=("cat", "dog"))
    fields = scored("<think>Not a cat.</think> dog", "<think>It barks.</think>dog", line)
    assert (fields["right"], fields["right_for_mmau"], fields["thought"]) == (True, True, True)
    assert scored("dog", "dog", line)["thought"] is False


def test_answers_without_thinking_are_counted_separately() -> None:
    tally = Tally()
    for text in ("<think>x</think>dog", "<think>y</think>cat", "dog"):
        tally.answered({**RECORD, **scored(text, "dog", Line("a", (), choices=("cat", "dog")))})
    accuracy = accuracy_of(tally)
    assert (accuracy["right"], accuracy["of"]) == (2, 3)
    assert accuracy["without_thinking"] == {"accuracy": 1.0, "right": 1, "of": 1}
    rows = dict(accuracy_rows(accuracy))
    assert rows["  of which without </think>"] == "100.0 %  (1 of 1)"
    assert "  by MMAU's own scorer" not in rows


def test_both_figures_are_shown_if_they_differ() -> None:
    tally = Tally()
    tally.answered({**RECORD, **scored("C minor", "C# minor", Line("a", (), choices=NOTES))})
    rows = dict(accuracy_rows(accuracy_of(tally)))
    assert rows["  with choices"] == "  0.0 %  (0 of 1)"
    assert rows["  by MMAU's own scorer"] == "100.0 %  (1 of 1)"
    assert "  of which without </think>" not in rows
