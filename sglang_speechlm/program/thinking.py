"""The answer of a model that thinks first: what follows its thoughts."""

from __future__ import annotations

END = "</think>"


class AfterThinking:
    """Takes a text as it comes and gives the answer: what follows the first ``</think>``, or all if there is none."""

    def __init__(self) -> None:
        self._held: str | None = ""
        self._has_begun = False

    def push(self, delta: str) -> str:
        """More of the answer; nothing until the thoughts are over. White space before the answer is no part of it."""
        if self._held is not None:
            self._held += delta
            _, end, delta = self._held.partition(END)
            if not end:
                return ""
            self._held = None
        if not self._has_begun:
            delta = delta.lstrip()
            self._has_begun = bool(delta)
        return delta

    def flush(self) -> str:
        """The rest, once the text is complete: a text whose thoughts never ended is an answer."""
        rest, self._held = self._held or "", None
        return rest
