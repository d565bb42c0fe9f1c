"""Whether an answer is right."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_LABEL = re.compile(r"\s*(?:\(([A-Za-z])\)|([A-Za-z])[).:])\s*(?=\S)")
_LETTER = re.compile(r"\W*([A-Za-z])\W*")


def is_right(prediction: str, answer: str, choices: Sequence[str] = ()) -> bool:
    """Whether a prediction gives the answer.

    With choices, as MMAU scores (github.com/Sakshi113/MMAU, evaluation.py): the prediction has all words of the answer,
    and none that only other choices have. Beyond that, a prediction that is one letter names a choice by its place, and
    so does an answer; labels, "(A)" before the first choice and so on, are not part of the choices.

    Without choices the answer's words must stand in the prediction, one after the other.
    """
    if not choices:
        return _holds(_words(prediction), _words(answer)) or _plain(prediction) == _plain(answer)
    options = _without_labels(choices)
    right = _place_of(answer, options)
    if right is None:
        options.append(answer)
        right = len(options) - 1
    if (named := _named_by_letter(prediction, options)) is not None:
        return named == right
    wanted, given = set(_words(options[right])), set(_words(prediction))
    if not wanted:
        return _plain(prediction) == _plain(options[right])
    return wanted <= given and not any(given & (set(_words(option)) - wanted) for option in options)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", _plain(text))


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().strip()


def _holds(words: Sequence[str], wanted: Sequence[str]) -> bool:
    size = len(wanted)
    return size > 0 and any(words[at : at + size] == wanted for at in range(len(words) - size + 1))


def _without_labels(choices: Sequence[str]) -> list[str]:
    """The choices without their labels, if all have the label of their place."""
    bare = [_without_label(choice, place) for place, choice in enumerate(choices)]
    return [text for text in bare if text is not None] if None not in bare else list(choices)


def _without_label(text: str, place: int) -> str | None:
    label = _LABEL.match(text)
    if label is None or (label[1] or label[2]).upper() != _letter(place):
        return None
    return text[label.end() :]


def _letter(place: int) -> str:
    return chr(ord("A") + place)


def _place_of(answer: str, options: Sequence[str]) -> int | None:
    """Which option the answer is: by its text, with a label or without, or by its letter."""
    for place, option in enumerate(options):
        bare = _without_label(answer, place)
        if _plain(option) in (_plain(answer), None if bare is None else _plain(bare)):
            return place
    return _named_by_letter(answer, options)


def _named_by_letter(text: str, options: Sequence[str]) -> int | None:
    """The option that a text of one letter names, unless the letter is itself what an option says."""
    letter = _LETTER.fullmatch(text)
    if letter is None or any(_words(option) == _words(text) for option in options):
        return None
    place = ord(letter[1].upper()) - ord("A")
    return place if place < len(options) else None
