"""The texts for training the demonstration's model: sentences from templates, and fixed answers to fixed questions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from random import Random

from sglang_speechlm.demo.recipe import words
from sglang_speechlm.demo.recipe.words import clock, ordinal, spelled

HELD_OUT = 200
"""Number of sentences for evaluation, which are not in the training."""
UNKNOWN = (
    "I do not know that. Please ask me something else.",
    "I can only say simple sentences.",
)
"""Its answers outside its domain: to a question, and to a sentence with a word that it cannot speak."""


@dataclass(frozen=True)
class Sentence:
    """A sentence to speak.

    Attributes:
        template: the name of its template.
        text: as it is written and spoken, with numbers in words.
        short: a short form for requests, such as "the number 47"; empty if there is none.
    """

    template: str
    text: str
    short: str = ""


def fixed_answers() -> dict[str, str]:
    """Return the hundred questions with their answers."""
    answers: dict[str, str] = json.loads((files(__package__) / "questions.json").read_text(encoding="utf-8"))
    return answers


def named(heard: str) -> str:
    """Return the answer about a clip of the spoken word ``heard``, or of "tone", "noise" or "silence"."""
    return SOUNDS.get(heard) or f"I hear the word {heard}."


SOUNDS = {"tone": "I hear a tone.", "noise": "I hear some noise.", "silence": "I hear only silence."}


def sentences(count: int, seed: int) -> list[Sentence]:
    """Return ``count`` different sentences, cycling over the templates that have any left; deterministic for a seed."""
    random = Random(seed)
    found: dict[str, Sentence] = {}
    exhausted = 0
    templates = list(_TEMPLATES.items())
    while len(found) < count and exhausted < 1000:
        for name, make in templates:
            text, short = make(random)
            exhausted = exhausted + 1 if text in found else 0
            found.setdefault(text, Sentence(name, text, short))
    return list(found.values())[:count]


def draw(random: Random) -> Sentence:
    """Return a sentence from a random template."""
    name, make = random.choice(list(_TEMPLATES.items()))
    text, short = make(random)
    return Sentence(name, text, short)


def split(count: int, seed: int = 0) -> tuple[list[Sentence], list[Sentence]]:
    """Return ``count`` sentences for training, and the held-out ones, balanced over the templates."""
    everything = sentences(count + HELD_OUT, seed)
    order = list(everything)
    Random(seed + 1).shuffle(order)
    by_template: dict[str, list[Sentence]] = {name: [] for name in _TEMPLATES}
    for sentence in order:
        by_template[sentence.template].append(sentence)
    held_out: list[Sentence] = []
    for row in zip(*(by_template[name][:HELD_OUT] for name in _TEMPLATES), strict=False):
        held_out.extend(row)
    held_out = held_out[:HELD_OUT]
    kept_out = {sentence.text for sentence in held_out}
    return [sentence for sentence in everything if sentence.text not in kept_out], held_out


# Function words are chosen to be audible: "a", "in" and "to" disappear between their neighbours, and would count as the
# model's mistakes.


def _position(random: Random) -> tuple[str, str]:
    color, animal = random.choice(words.COLORS), random.choice(words.ANIMALS)
    return f"The {color} {animal} {random.choice(words.REST)} {_at(random)}.", ""


def _wish(random: Random) -> tuple[str, str]:
    name, verb = random.choice(words.NAMES), random.choice(words.VERBS)
    return f"{name} {verb} this {_adjective(random)} {random.choice(words.THINGS)}.", ""


def _family(random: Random) -> tuple[str, str]:
    relative, verb = random.choice(words.FAMILY), random.choice(words.VERBS)
    return f"My {relative} {verb} the {_adjective(random)} {random.choice(words.THINGS)}.", ""


def _herd(random: Random) -> tuple[str, str]:
    return f"{random.choice(words.NAMES)} counted {spelled(random.randint(2, 99))} {random.choice(words.HERDS)}.", ""


def _weather(random: Random) -> tuple[str, str]:
    first, second = random.sample(words.WEATHER, 2)
    when = f"{random.choice(words.DAYS)} {random.choice(words.PARTS_OF_DAY)}"
    return f"{when} will be {first} and {second}.", ""


def _number(random: Random) -> tuple[str, str]:
    number = random.randint(0, 999)
    return f"The number is {spelled(number)}.", f"the number {number}"


def _time(random: Random) -> tuple[str, str]:
    hour, minute = random.randint(1, 12), random.randint(0, 59)
    return f"The time is {clock(hour, minute)}.", f"the time {hour}:{minute:02}"


def _errand(random: Random) -> tuple[str, str]:
    return f"On {random.choice(words.DAYS)}, {random.choice(words.NAMES)} visits the {random.choice(words.PLACES)}.", ""


def _request(random: Random) -> tuple[str, str]:
    return f"Please put the {_adjective(random)} {random.choice(words.THINGS)} {_at(random)}.", ""


def _company(random: Random) -> tuple[str, str]:
    first, second = random.sample(words.NAMES, 2)
    return f"{first} met {second} {_at(random)}.", ""


def _order(random: Random) -> tuple[str, str]:
    first, second = random.sample(words.GOODS, 2)
    counts = [spelled(random.randint(2, 20)) for _ in range(2)]
    return f"Please bring {counts[0]} {first} and {counts[1]} {second}.", ""


def _date(random: Random) -> tuple[str, str]:
    day, month, number = random.choice(words.DAYS), random.choice(words.MONTHS), random.randint(1, 31)
    return f"Today is {day}, the {ordinal(number)} of {month}.", ""


def _sum(random: Random) -> tuple[str, str]:
    first, second = random.randint(1, 40), random.randint(1, 40)
    text = f"{spelled(first)} plus {spelled(second)} makes {spelled(first + second)}."
    return text[0].upper() + text[1:], ""


def _at(random: Random) -> str:
    return f"{random.choice(words.PREPOSITIONS)} the {random.choice(words.PLACES)}"


def _adjective(random: Random) -> str:
    return random.choice((*words.COLORS, *words.SIZES))


_TEMPLATES: dict[str, Callable[[Random], tuple[str, str]]] = {
    "position": _position,
    "wish": _wish,
    "family": _family,
    "herd": _herd,
    "weather": _weather,
    "number": _number,
    "time": _time,
    "errand": _errand,
    "request": _request,
    "company": _company,
    "order": _order,
    "date": _date,
    "sum": _sum,
}
