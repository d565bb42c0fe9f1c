"""Counters, gauges and histograms that cost nothing until they are enabled.

prometheus_client decides on its first import whether it writes for one process or for several, by a variable that
SGLang sets during its start. This module imports it, and creates the metrics, only when a process enables them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0)
"""In seconds, from a single stage's first piece to a reply of several minutes."""


@dataclass
class Metric:
    """One metric.

    Attributes:
        name: the exported name.
        meaning: its help text.
        labels: the values of each label; every combination is exported from the start, at zero.
    """

    name: str
    meaning: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._series: dict[tuple[str, ...], Any] = {}
        METRICS.append(self)

    def enable(self) -> None:
        """Create its series in this process."""
        metric = self._make()
        for values in itertools.product(*self.labels.values()):
            self._series[values] = metric.labels(*values) if values else metric

    def _make(self) -> Any:
        raise TypeError(f"{type(self).__name__} is no kind of metric")

    def _of(self, labels: dict[str, str]) -> Any:
        return self._series[tuple(labels[name] for name in self.labels)]


class Counter(Metric):
    """A value that only grows."""

    def add(self, amount: float = 1, **labels: str) -> None:
        """Add ``amount`` to the series of ``labels``; no effect until they are enabled."""
        if self._series:
            self._of(labels).inc(amount)

    def _make(self) -> Any:
        from prometheus_client import Counter

        return Counter(self.name, self.meaning, tuple(self.labels))


class Gauge(Metric):
    """A current value."""

    def set(self, value: float, **labels: str) -> None:
        """Set the series of ``labels``; no effect until they are enabled."""
        if self._series:
            self._of(labels).set(value)

    def add(self, amount: float, **labels: str) -> None:
        """Add ``amount``, which may be negative, to the series of ``labels``; no effect until they are enabled."""
        if self._series:
            self._of(labels).inc(amount)

    def _make(self) -> Any:
        from prometheus_client import Gauge

        return Gauge(self.name, self.meaning, tuple(self.labels), multiprocess_mode="livesum")


class Histogram(Metric):
    """A distribution of durations in seconds."""

    def observe(self, seconds: float, **labels: str) -> None:
        """Add ``seconds`` to the series of ``labels``; no effect until they are enabled."""
        if self._series:
            self._of(labels).observe(seconds)

    def _make(self) -> Any:
        from prometheus_client import Histogram

        return Histogram(self.name, self.meaning, tuple(self.labels), buckets=BUCKETS)


METRICS: list[Metric] = []
"""All metrics."""


def enable() -> None:
    """Create all metrics in this process. Call it once, after SGLang has set where to write them."""
    for metric in METRICS:
        metric.enable()
