"""Recognise a text that repeats itself endlessly."""

from __future__ import annotations

_LONGEST_UNIT = 64
_LEAST_ROUNDS = 8
_LEAST_IDS = 100
"""A clip of 30 s that repeats a short word three times a second has fewer ids."""


class LoopWatch:
    """Watches the ids of a text for a loop at its end.

    A loop is a unit of at most 64 ids that is repeated at least eight times and over at least 100 ids. Human
    repetitions stay below that: a repeated word, digits, a refrain.
    """

    def __init__(self) -> None:
        self._recent: list[int] = []
        self._count = 0
        self._run = 0
        # Indexed by the length of a unit: how many ids at the end equal those one unit before them.
        self._runs = [0] * (_LONGEST_UNIT + 1)

    @property
    def settled(self) -> int:
        """Number of ids that belong to the text whatever follows: outside a loop, or its first round. Never falls."""
        return self._count - self._run

    def push(self, index: int) -> bool:
        """Take the next id; return whether it completes a loop. ``settled`` then ends with the loop's first round."""
        recent = self._recent
        longest = 0
        is_loop = False
        for unit in range(1, min(len(recent), _LONGEST_UNIT) + 1):
            run = self._runs[unit] = self._runs[unit] + 1 if recent[-unit] == index else 0
            longest = max(longest, run)
            is_loop = is_loop or run + unit >= max(_LEAST_ROUNDS * unit, _LEAST_IDS)
        self._run = longest
        self._count += 1
        recent.append(index)
        del recent[:-_LONGEST_UNIT]
        return is_loop
