"""Decide whether a text contains anything to speak, by its characters."""

from __future__ import annotations

import unicodedata

_READ_BY_NAME = frozenset("#%&@§")
"""Punctuation by Unicode's categories, but read as words."""
_NAMED = ("L", "N", "Sm", "Sc")
"""Letters, digits, mathematical and currency symbols."""
_INVISIBLE = ("Z", "C", "M")
"""Spaces, controls, and combining marks without a letter."""
_FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters and symbols by category, but blank."""


def is_blank(text: str) -> bool:
    """Whether ``text`` has no visible character."""
    return all(character in _FILLERS or unicodedata.category(character).startswith(_INVISIBLE) for character in text)


def is_speakable(text: str) -> bool:
    """Whether ``text`` has a letter, a digit or a symbol with a spoken name; punctuation and emoji do not count."""
    return any(
        character not in _FILLERS and (character in _READ_BY_NAME or unicodedata.category(character).startswith(_NAMED))
        for character in text
    )
