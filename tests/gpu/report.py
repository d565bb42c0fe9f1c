"""The figures of a check, written after each part, and the time left for the others."""

from __future__ import annotations

import contextlib
import json
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

_LEAST_SECONDS = 5.0
"""Minimum time left for starting a part."""
_TRACEBACK_LENGTH = 3000

Figures = dict[str, Any]


class OutOfTime(BaseException):
    """A part exceeded its time. It is not an ``Exception``, so that no part mistakes it for a failed request."""


class Report:
    """The parts of a check, each with its own figures; a failed part does not end the others.

    Use it in the main thread, because a signal interrupts a part that takes too long.

    Args:
        file: JSON file, rewritten after every part.
        seconds: time for all parts together.
        heading: other content of the file.
    """

    def __init__(self, file: Path, seconds: float, heading: Figures) -> None:
        self._file, self._end, self._heading = file, time.monotonic() + seconds, heading
        self.parts: dict[str, Figures] = {}
        file.parent.mkdir(parents=True, exist_ok=True)

    def part(self, name: str, seconds: float, measure: Callable[[Figures], None]) -> bool:
        """Let ``measure`` fill in the figures of one part, record a failure, and return whether it passed."""
        figures: Figures = {}
        started = time.monotonic()
        left = self._end - started
        try:
            if left < _LEAST_SECONDS:
                raise OutOfTime("not begun: no time was left")
            with _alarm(min(seconds, left)):
                measure(figures)
        except (Exception, OutOfTime) as error:
            figures["failed"] = f"{type(error).__name__}: {error}"
            figures["traceback"] = traceback.format_exc()[-_TRACEBACK_LENGTH:]
        figures["seconds"] = round(time.monotonic() - started, 1)
        self.parts[name] = figures
        self._file.write_text(json.dumps({**self._heading, "parts": self.parts}, indent=2) + "\n")
        failure = figures.get("failed", "").strip().splitlines()
        print(f"{figures['seconds']:6.1f} s  {'FAILED' if failure else 'held  '}  {name}", *failure[:1], flush=True)
        return not failure

    @property
    def failed(self) -> list[str]:
        """Names of the parts that failed."""
        return [name for name, figures in self.parts.items() if "failed" in figures]


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(_number: int, _frame: FrameType | None) -> None:
        raise OutOfTime(f"took more than {seconds:.3g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
