"""Counts attempts and keeps the failures."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

_SHOWN_FAILURES = 12
_WIDTH = 300


@dataclass
class Ledger:
    """The outcome of an attack; usable from several threads.

    Attributes:
        tried: number of attempts by area.
        failures: descriptions of failed attempts by area.
    """

    tried: Counter[str] = field(default_factory=Counter)
    failures: dict[str, list[str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def check(self, area: str, passed: bool, what: str) -> None:
        """Count one attempt; its description ``what`` is kept if it failed."""
        with self._lock:
            if area not in self.tried:
                print(f"{time.strftime('%H:%M:%S')} {area}", flush=True)
            self.tried[area] += 1
            if not passed:
                self.failures.setdefault(area, []).append(what[:_WIDTH])

    @property
    def failed(self) -> int:
        """Number of failed attempts."""
        return sum(len(failures) for failures in self.failures.values())

    def table(self) -> str:
        """Return a line for each area, then the failures of each."""
        width = max((len(area) for area in self.tried), default=4) + 2
        lines = [f"{'area':<{width}}{'tried':>9}{'passed':>9}{'failed':>9}"]
        for area, tried in self.tried.items():
            failed = len(self.failures.get(area, ()))
            lines.append(f"{area:<{width}}{tried:>9,}{tried - failed:>9,}{failed:>9,}")
        for area, failures in self.failures.items():
            lines.append(f"\n{area}:")
            lines += [f"  {failure}" for failure in failures[:_SHOWN_FAILURES]]
            if len(failures) > _SHOWN_FAILURES:
                lines.append(f"  and {len(failures) - _SHOWN_FAILURES:,} more")
        return "\n".join(lines)
