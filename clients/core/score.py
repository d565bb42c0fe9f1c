"""Whether an answer is right."""

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
"""A number with its sign, or a word with what tells one note or language from another: -5, 3/4, C#, C++."""
_MINUS = str.maketrans("−–", "--")
_BEFORE, _BEHIND = "\"'“”‘’*_`", "\"'“”‘’*_`.,;:!?"


def scored(text: str, truth: str, line: Line) -> dict[str, Any]:
    """Score an answer; what was thought before it is not judged.

    Args:
        text: of the answer, with what was thought.
        truth: the right answer.
        line: that it answers.

    Returns:
        What its record says: ``answer``, ``right``, ``thought`` (whether there was a ``</think>``), ``groups``, and
        with choices ``right_for_mmau``.
    """
    final = after_thinking(text)
    prediction, answer = text if final is None else final, after_thinking(truth) or truth
    fields = {"answer": truth, "right": is_right(prediction, answer, line.choices), "thought": final is not None}
    if line.choices:
        fields["right_for_mmau"] = is_right_for_mmau(prediction, answer, line.choices)
    return {**fields, "groups": line.groups}


def is_right(prediction: str, answer: str, choices: Sequence[str] = ()) -> bool:
    """Whether a prediction gives the answer.

    With choices, a prediction that is a choice is that choice: by its text, by its letter ("B", "(B)."), or by both
    ("B) text"). Otherwise it is the one choice that it mentions word by word, or else the one choice all of whose words
    it has, with none that only another choice has. Labels, "(A)" before the first choice and so on, are not part of the
    choices.

    Without choices the answer's words must stand in the prediction, one after the other.
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
    """Whether MMAU's published scorer (github.com/Sakshi113/MMAU, evaluation.py) takes a prediction for the answer.

    It compares sets of words: the prediction must have all words of the answer, and none that only other choices have.
    """
    given, wanted = _word_set(prediction), _word_set(answer)
    others = [words for choice in choices if (words := _word_set(choice)) != wanted]
    return bool(given) and wanted <= given and not any(given & (words - wanted) for words in others)


def _word_set(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _chosen(prediction: str, options: Sequence[str]) -> int | None:
    """Which option a prediction is; None if it is none, or might be several."""
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
    """Whether a mention is a part of a longer one, as "minor" is of "C minor"."""
    return any(start <= begin and end <= stop and stop - start > end - begin for _, start, stop in spans)


def _has_alone(given: set[str], wanted: set[str], all_wanted: Sequence[Sequence[str]]) -> bool:
    return wanted <= given and not any(given & (set(other) - wanted) for other in all_wanted)


def _words(text: str) -> list[str]:
    return _WORD.findall(_plain(text))


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).translate(_MINUS).casefold().split())


def _places(words: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Where the wanted words stand, one after the other."""
    size = len(wanted)
    return [at for at in range(len(words) - size + 1) if size and words[at : at + size] == wanted]


def _holds(words: Sequence[str], wanted: Sequence[str]) -> bool:
    return bool(_places(words, wanted))


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


def _place_of(text: str, options: Sequence[str]) -> int | None:
    """Which option a text is: by what it says, with a label or without, or by its letter."""
    for same in (_plain, _bare):
        for place, option in enumerate(options):
            unlabelled = _without_label(text, place)
            if same(option) in (same(text), None if unlabelled is None else same(unlabelled)):
                return place
    return _named_by_letter(text, options)


def _bare(text: str) -> str:
    """The text without the marks around it, unless it is nothing else."""
    return _plain(text).lstrip(_BEFORE).rstrip(_BEHIND) or _plain(text)


def _named_by_letter(text: str, options: Sequence[str]) -> int | None:
    """The option that a text of one letter names, unless the letter is itself what an option says."""
    letter = _LETTER.fullmatch(text)
    if letter is None or any(_words(option) == _words(text) for option in options):
        return None
    place = ord(letter[1].upper()) - ord("A")
    return place if place < len(options) else None
