"""What was tried, what held and what fell."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

_SHOWN_FALLS = 12
_WIDTH = 300


@dataclass
class Ledger:
    """The outcome of an attack; usable from several threads.

    Attributes:
        tried: attempts by area.
        falls: what went wrong, by area.
    """

    tried: Counter[str] = field(default_factory=Counter)
    falls: dict[str, list[str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def check(self, area: str, held: bool, what: str) -> None:
        """Count one attempt; ``what`` describes it and is kept if it did not hold."""
        with self._lock:
            if area not in self.tried:
                print(f"{time.strftime('%H:%M:%S')} {area}", flush=True)
            self.tried[area] += 1
            if not held:
                self.falls.setdefault(area, []).append(what[:_WIDTH])

    @property
    def fallen(self) -> int:
        """Attempts that did not hold."""
        return sum(len(falls) for falls in self.falls.values())

    def table(self) -> str:
        """A line for each area, then the falls of each."""
        width = max((len(area) for area in self.tried), default=4) + 2
        lines = [f"{'area':<{width}}{'tried':>9}{'held':>9}{'fallen':>9}"]
        for area, tried in self.tried.items():
            fallen = len(self.falls.get(area, ()))
            lines.append(f"{area:<{width}}{tried:>9,}{tried - fallen:>9,}{fallen:>9,}")
        for area, falls in self.falls.items():
            lines.append(f"\n{area}:")
            lines += [f"  {fall}" for fall in falls[:_SHOWN_FALLS]]
            if len(falls) > _SHOWN_FALLS:
                lines.append(f"  and {len(falls) - _SHOWN_FALLS:,} more")
        return "\n".join(lines)
