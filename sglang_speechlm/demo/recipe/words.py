"""The words for the corpus's templates."""

from __future__ import annotations

import json
from importlib.resources import files

_WORDS: dict[str, list[str]] = json.loads((files(__package__) / "words.json").read_text(encoding="utf-8"))

COLORS = _WORDS["colors"]
SIZES = _WORDS["sizes"]
ANIMALS = _WORDS["animals"]
HERDS = _WORDS["herds"]
THINGS = _WORDS["things"]
GOODS = _WORDS["goods"]
PLACES = _WORDS["places"]
NAMES = _WORDS["names"]
FAMILY = _WORDS["family"]
VERBS = _WORDS["verbs"]
REST = _WORDS["rest"]
PREPOSITIONS = _WORDS["prepositions"]
WEATHER = _WORDS["weather"]
DAYS = _WORDS["days"]
PARTS_OF_DAY = _WORDS["parts_of_day"]
MONTHS = _WORDS["months"]
_UNITS = _WORDS["units"]
_TENS = _WORDS["tens"]
_ORDINALS = _WORDS["ordinals"]


def spelled(number: int) -> str:
    """Return ``number`` (0 to 999) in words: 347 is "three hundred forty seven"."""
    if number < 20:
        return _UNITS[number]
    if number < 100:
        tens, unit = divmod(number, 10)
        return _TENS[tens - 2] + (f" {_UNITS[unit]}" if unit else "")
    hundreds, rest = divmod(number, 100)
    return f"{_UNITS[hundreds]} hundred" + (f" {spelled(rest)}" if rest else "")


def ordinal(number: int) -> str:
    """Return ``number`` (1 to 31) as a day of a month in words: 23 is "twenty third"."""
    if number <= 20:
        return _ORDINALS[number - 1]
    return "thirtieth" if number == 30 else f"{_TENS[number // 10 - 2]} {_ORDINALS[number % 10 - 1]}"


def clock(hour: int, minute: int) -> str:
    """Return a time of the twelve-hour clock in words: 7:05 is "seven o five", 7:00 "seven o'clock"."""
    if minute == 0:
        return f"{_UNITS[hour]} o'clock"
    return f"{_UNITS[hour]} {'o ' if minute < 10 else ''}{spelled(minute)}"


NAMEABLE = (*COLORS, *ANIMALS, *THINGS, *PLACES, *FAMILY, *DAYS, *MONTHS, *_UNITS)
"""The words that the model recognises when it hears them alone."""
