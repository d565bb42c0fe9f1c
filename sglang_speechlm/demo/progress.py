"""What the demonstration prints: one line for each thing that happens, with the seconds since its start."""

from __future__ import annotations

import time

_WIDTH = 100
_PATIENCE_SECONDS = 10


class Progress:
    """Prints steps and what came of them."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()

    def step(self, text: str) -> None:
        """Something begins, or has happened."""
        self._last = time.monotonic()
        print(f"[{self._last - self._start:6.1f} s] {text}", flush=True)

    def wait(self, text: str) -> None:
        """Nothing has happened yet: a moment's rest, and a word every now and then."""
        time.sleep(0.2)
        if time.monotonic() - self._last > _PATIENCE_SECONDS:
            self.step(text)

    def note(self, text: str) -> None:
        """More about the last step."""
        print(f"{'':11}{text}", flush=True)

    def quote(self, who: str, text: str) -> None:
        """What somebody said, on one line: characters that would not show are replaced."""
        shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
        self.note(f"{who}: {shown if len(shown) <= _WIDTH else shown[: _WIDTH - 3] + '...'}")
