"""Recognise a text that repeats itself without end."""

from __future__ import annotations

_LONGEST_UNIT = 64
_LEAST_ROUNDS = 8
_LEAST_IDS = 100
"""A clip of 30 s in which a short word is said three times a second has fewer of them."""


class LoopWatch:
    """Watches the ids of a text as they come for a loop at their end.

    A loop is a unit of at most 64 ids that stands there eight times or more, 100 ids or more in all. What people repeat
    stays below that: a word said again and again, digits, a refrain.
    """

    def __init__(self) -> None:
        self._recent: list[int] = []
        self._count = 0
        self._run = 0
        # By the length of a unit: how many ids at the end equal those one unit before them.
        self._runs = [0] * (_LONGEST_UNIT + 1)

    @property
    def settled(self) -> int:
        """How many ids belong to the text whatever comes: they are in no loop, or in its first round. Never falls."""
        return self._count - self._run

    def push(self, index: int) -> bool:
        """Take the next id. Whether it completes a loop, of which the first round is then what is settled."""
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
