"""Whether a text says anything, judged by its characters and not by its length."""

from __future__ import annotations

import unicodedata

_READ_BY_NAME = frozenset("#%&@§")
"""Punctuation by Unicode's categories, and yet words."""
_SAID = ("L", "N", "Sm", "Sc")
"""Letters, digits, signs of mathematics and currencies."""
_NOT_SEEN = ("Z", "C", "M")
"""Spaces, controls, marks that join a letter which is not there."""
_FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters and signs by category, and blank."""


def is_blank(text: str) -> bool:
    """Whether nothing of ``text`` is to be seen."""
    return all(character in _FILLERS or unicodedata.category(character).startswith(_NOT_SEEN) for character in text)


def can_be_said(text: str) -> bool:
    """Whether ``text`` has a letter, a digit or a sign that is read by its name; punctuation and emoji are not."""
    return any(
        character not in _FILLERS and (character in _READ_BY_NAME or unicodedata.category(character).startswith(_SAID))
        for character in text
    )
