"""The demonstration's output: one line per step, with the seconds since its start."""

from __future__ import annotations

import time

_WIDTH = 100
_PATIENCE_SECONDS = 10


class Progress:
    """Prints steps and their results."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()

    def step(self, text: str) -> None:
        """Print a step that begins or has happened."""
        self._last = time.monotonic()
        print(f"[{self._last - self._start:6.1f} s] {text}", flush=True)

    def wait(self, text: str) -> None:
        """Sleep briefly, and print ``text`` every now and then."""
        time.sleep(0.2)
        if time.monotonic() - self._last > _PATIENCE_SECONDS:
            self.step(text)

    def note(self, text: str) -> None:
        """Print more about the last step."""
        print(f"{'':11}{text}", flush=True)

    def quote(self, speaker: str, text: str) -> None:
        """Print a text of the user or the model on one line, with unprintable characters replaced."""
        shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
        self.note(f"{speaker}: {shown if len(shown) <= _WIDTH else shown[: _WIDTH - 3] + '...'}")
