"""Decide whether an answer is correct."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from .answer import after_thinking
from .lines import Line

_LABEL = re.compile(r"\s*(?:\(([A-Za-z])\)|([A-Za-z])[).:])\s*(?=\S)")
_LETTER = re.compile(r"[\s\"'*(\[]*([A-Za-z])[\s\"'*)\].:,]*")
_WORD = re.compile(r"(?<![\w.])[-+]?\d+(?:[.,:/]\d+)*\w*%?|\w+(?:[#♯♭]|\++(?!\w))?")
"""A number with its sign, or a word with marks that distinguish notes or languages: -5, 3/4, C#, C++."""
_MINUS = str.maketrans("−–", "--")
_BEFORE, _BEHIND = "\"'“”‘’*_`", "\"'“”‘’*_`.,;:!?"


def scored(text: str, truth: str, line: Line) -> dict[str, Any]:
    """Score an answer, without its thinking.

    Args:
        text: the answer's text, including thinking.
        truth: the correct answer.
        line: the answered line.

    Returns:
        Fields for its record: ``answer``, ``right``, ``thought`` (whether there was a ``</think>``), ``groups``, and
        with choices ``right_for_mmau``.
    """
    final = after_thinking(text)
    prediction, answer = text if final is None else final, after_thinking(truth) or truth
    fields = {"answer": truth, "right": is_right(prediction, answer, line.choices), "thought": final is not None}
    if line.choices:
        fields["right_for_mmau"] = is_right_for_mmau(prediction, answer, line.choices)
    return {**fields, "groups": line.groups}


def is_right(prediction: str, answer: str, choices: Sequence[str] = ()) -> bool:
    """Whether a prediction matches the answer.

    With choices, a prediction that is a choice counts as that choice: by its text, by its letter ("B", "(B)."), or by
    both ("B) text"). Otherwise it counts as the only choice that it mentions word by word, or else as the only
    choice all of whose words it contains, as long as it contains no word that only another choice has. Labels, such as
    "(A)" before the first choice, are not part of the choices.

    Without choices, the answer's words must appear in the prediction in sequence.
    """
    if not choices:
        return _holds(_words(prediction), _words(answer)) or _plain(prediction) == _plain(answer)
    options = _without_labels(choices)
    right = _place_of(answer, options)
    if right is None:
        options.append(answer)
        right = len(options) - 1
    return _chosen(prediction, options) == right


def is_right_for_mmau(prediction: str, answer: str, choices: Sequence[str]) -> bool:
    """Whether MMAU's published scorer (github.com/Sakshi113/MMAU, evaluation.py) accepts a prediction.

    It compares sets of words: the prediction must have all words of the answer, and none that only other choices have.
    """
    given, wanted = _word_set(prediction), _word_set(answer)
    others = [words for choice in choices if (words := _word_set(choice)) != wanted]
    return bool(given) and wanted <= given and not any(given & (words - wanted) for words in others)


def _word_set(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _chosen(prediction: str, options: Sequence[str]) -> int | None:
    """Return the index of the option that a prediction chooses; None if it is none or ambiguous."""
    if (place := _place_of(prediction, options)) is not None:
        return place
    words = _words(prediction)
    wanted = [_words(option) for option in options]
    spans = [(place, at, at + len(of)) for place, of in enumerate(wanted) for at in _places(words, of)]
    mentioned = {place for place, begin, end in spans if not _is_inside(begin, end, spans)}
    if len(mentioned) == 1:
        return mentioned.pop()
    given = set(words)
    fitting = [place for place, of in enumerate(wanted) if of and _has_alone(given, set(of), wanted)]
    return fitting[0] if len(fitting) == 1 else None


def _is_inside(begin: int, end: int, spans: Sequence[tuple[int, int, int]]) -> bool:
    """Whether a mention is part of a longer one, as "minor" is of "C minor"."""
    return any(start <= begin and end <= stop and stop - start > end - begin for _, start, stop in spans)


def _has_alone(given: set[str], wanted: set[str], all_wanted: Sequence[Sequence[str]]) -> bool:
    return wanted <= given and not any(given & (set(other) - wanted) for other in all_wanted)


def _words(text: str) -> list[str]:
    return _WORD.findall(_plain(text))


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).translate(_MINUS).casefold().split())


def _places(words: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Return where the wanted words appear in sequence."""
    size = len(wanted)
    return [at for at in range(len(words) - size + 1) if size and words[at : at + size] == wanted]


def _holds(words: Sequence[str], wanted: Sequence[str]) -> bool:
    return bool(_places(words, wanted))


def _without_labels(choices: Sequence[str]) -> list[str]:
    """Return the choices without their labels, if all are labelled in order."""
    bare = [_without_label(choice, place) for place, choice in enumerate(choices)]
    return [text for text in bare if text is not None] if None not in bare else list(choices)


def _without_label(text: str, place: int) -> str | None:
    label = _LABEL.match(text)
    if label is None or (label[1] or label[2]).upper() != _letter(place):
        return None
    return text[label.end() :]


def _letter(place: int) -> str:
    return chr(ord("A") + place)


def _place_of(text: str, options: Sequence[str]) -> int | None:
    """Return the index of the option that equals a text, with or without a label, or by its letter."""
    for same in (_plain, _bare):
        for place, option in enumerate(options):
            unlabelled = _without_label(text, place)
            if same(option) in (same(text), None if unlabelled is None else same(unlabelled)):
                return place
    return _named_by_letter(text, options)


def _bare(text: str) -> str:
    """Return the text without the punctuation around it, unless there is nothing else."""
    return _plain(text).lstrip(_BEFORE).rstrip(_BEHIND) or _plain(text)


def _named_by_letter(text: str, options: Sequence[str]) -> int | None:
    """Return the index of the option that a single letter names, unless the letter is itself an option."""
    letter = _LETTER.fullmatch(text)
    if letter is None or any(_words(option) == _words(text) for option in options):
        return None
    place = ord(letter[1].upper()) - ord("A")
    return place if place < len(options) else None
