"""The most expensive kernels in a profile of decode steps."""

from __future__ import annotations

import collections
import gzip
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_SHOWN = 25
_NAME_LENGTH = 90


def table_of(trace: Path, category: str) -> list[dict[str, Any]]:
    """Return the kernels of a torch profiler's trace, the most expensive first.

    Args:
        trace: a ``*.trace.json.gz`` file.
        category: the category of events to count: ``kernel`` on a GPU, ``cpu_op`` without one.

    Returns:
        The name, the calls, the total milliseconds and the share of the time of each.
    """
    with gzip.open(trace, "rt") as file:
        events = json.load(file)["traceEvents"]
    calls: collections.Counter[str] = collections.Counter()
    microseconds: collections.Counter[str] = collections.Counter()
    for event in events:
        if event.get("cat") == category:
            name = event["name"][:_NAME_LENGTH]
            calls[name] += 1
            microseconds[name] += event["dur"]
    total = sum(microseconds.values())
    return [
        {"kernel": name, "calls": calls[name], "ms": round(time / 1000, 3), "share": round(time / total, 4)}
        for name, time in microseconds.most_common(_SHOWN)
    ]


def draw(table: list[dict[str, Any]], title: str, file: Path) -> None:
    """Draw the shares as bars."""
    figure = Figure(figsize=(9, 0.28 * len(table) + 1.2), layout="constrained")
    axes = figure.subplots()
    names = [row["kernel"][:60] for row in table]
    bars = axes.barh(range(len(table)), [100 * row["share"] for row in table])
    axes.bar_label(bars, [f"{row['calls']} calls" for row in table], fontsize=6, padding=2)
    axes.set_yticks(range(len(table)), names, fontsize=6)
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.01)
    axes.set(xlabel="% of the kernels' time")
    figure.suptitle(title, fontsize=9)
    figure.savefig(file, dpi=120)
