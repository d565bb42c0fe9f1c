"""Draw the summary."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from .run import Work
from .summary import as_numpy

Numbers = npt.NDArray[np.float64]

_COLOURS = ("#3b6fb6", "#d9822b", "#4b9b5f")
_FAILED = "#b8323c"
_MOST_POINTS = 5000
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 10,
    "legend.frameon": False,
}


def draw(works: Sequence[Work]) -> bytes:
    """Return a PNG of the results, with a colour per task."""
    panels = [_latency, _progress]
    if any(work.job.task.speaks for work in works):
        panels.append(_sound)
    if any(work.results.tally.score.scored for work in works):
        panels.append(_accuracy)
    rows = 2 if len(panels) == 4 else 1
    columns = len(panels) // rows
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.8 * columns, 3.5 * rows + 0.4), layout="constrained")
        for panel, axes in zip(panels, np.ravel(figure.subplots(rows, columns)), strict=True):
            panel(axes, works)
        figure.suptitle(_title(works), x=0.012, ha="left", fontsize=10, color="#555555")
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=130)
    return file.getvalue()


def _title(works: Sequence[Work]) -> str:
    lines = sum(work.seen.lines for work in works)
    answered = sum(len(work.results.tally.seconds) for work in works)
    failed = sum(work.results.tally.failures.total() for work in works)
    sound = sum(sum(work.results.tally.audio_seconds) for work in works)
    parts = [f"{answered} of {lines} lines answered", f"{failed} failed"]
    return ", ".join([*parts, f"{sound:.0f} s of sound"] if sound else parts)


def _latency(axes: Axes, works: Sequence[Work]) -> None:
    """Draw the share of answers within a time."""
    for work, colour in zip(works, _COLOURS, strict=False):
        task, seconds = work.job.task, np.sort(as_numpy(work.results.tally.seconds))
        name = f"{task.name}, cfg {task.cfg:g}" if task.cfg > 1 else task.name
        if len(seconds):
            middle, late = np.percentile(seconds, (50, 99))
            name = f"{name}: p50 {middle:.2g} s, p99 {late:.2g} s"
        times, counts = _steps(seconds)
        axes.step(times, 100 * counts / max(len(seconds), 1), where="post", color=colour, label=name)
    axes.legend(loc="lower right", framealpha=0.8, frameon=True, edgecolor="none")
    axes.set(title="Latency", xlabel="seconds", ylabel="answers within, %", ylim=(0, 102), xlim=(0, None))


def _progress(axes: Axes, works: Sequence[Work]) -> None:
    """Draw answers over time, across runs, with marks for failures."""
    begin = min(work.results.starts[0] for work in works)
    finished = [np.sort(as_numpy(work.results.tally.finished)) - begin for work in works]
    longest = max((float(times[-1]) for times in finished if len(times)), default=0.0)
    unit, name = (60, "minutes") if longest > 300 else (1, "seconds")
    for work, times, colour in zip(works, finished, _COLOURS, strict=False):
        at, counts = _steps(times)
        axes.step(at / unit, counts, where="post", color=colour)
        failed = as_numpy(work.results.tally.failed_at)[-_MOST_POINTS:] - begin
        axes.plot(failed / unit, np.searchsorted(times, failed, side="right"), "x", color=_FAILED, markersize=5)
    for start in works[0].results.starts[1:]:
        axes.axvline((start - begin) / unit, color="#888888", linestyle=":", linewidth=1)
    handles = [Line2D([], [], color=_FAILED, marker="x", linestyle="", label="failed")]
    handles += [Line2D([], [], color="#888888", linestyle=":", linewidth=1, label="continued")]
    shown = [any(work.results.tally.failures for work in works), len(works[0].results.starts) > 1]
    if any(shown):
        axes.legend(handles=[handle for handle, there in zip(handles, shown, strict=True) if there], loc="lower right")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(title="Answers", xlabel=f"{name} since the start", ylabel="lines answered", xlim=(0, None), ylim=(0, None))


def _steps(times: Numbers) -> tuple[Numbers, Numbers]:
    """Return how many of the sorted times have passed at each time, with no more points than can be distinguished."""
    counts = np.unique(np.linspace(0, len(times), min(len(times) + 1, _MOST_POINTS)).round())
    return np.concatenate([[0.0], times])[counts.astype(int)], counts


def _sound(axes: Axes, works: Sequence[Work]) -> None:
    """Draw the time that answers took over the length of their sound."""
    longest = 0.0
    for work, colour in zip(works, _COLOURS, strict=False):
        audio, seconds = as_numpy(work.results.tally.audio_seconds), as_numpy(work.results.tally.seconds)
        sounding = np.flatnonzero(audio > 0)[-_MOST_POINTS:]
        if len(sounding):
            axes.plot(audio[sounding], seconds[sounding], ".", color=colour, markersize=5, alpha=0.6)
            longest = max(longest, float(audio[sounding].max()))
    axes.plot([0, longest], [0, longest], "--", color="#888888", linewidth=1, label="as fast as it plays")
    axes.legend(loc="best", framealpha=0.8, frameon=True, edgecolor="none")
    axes.set(title="Sound", xlabel="seconds of sound", ylabel="seconds to answer", xlim=(0, None), ylim=(0, None))


def _accuracy(axes: Axes, works: Sequence[Work]) -> None:
    """Draw accuracy, overall and by the groups of the input."""
    (tally,) = (work.results.tally for work in works if work.results.tally.score.scored)
    rows = [("all", tally.score)]
    for name, scores in tally.groups.items():
        rows += [(f"{name}: {value}", score) for value, score in sorted(scores.items())]
    rows = rows[:16]
    names = [name if len(name) <= 28 else f"{name[:27]}…" for name, _ in rows]
    shares = [100 * score.right / score.scored for _, score in rows]
    places = np.arange(len(rows))[::-1]
    axes.barh(places, shares, color=[_COLOURS[0]] + ["#a9c1e2"] * (len(rows) - 1), height=0.7)
    for place, share, (_, score) in zip(places, shares, rows, strict=True):
        label = f"{share:.0f} %  ({score.scored})"
        axes.annotate(label, (share, place), (3, 0), textcoords="offset points", va="center")
    axes.set_yticks(places, names)
    axes.grid(axis="y", visible=False)
    axes.set(title="Accuracy", xlabel="% correct (number scored)", xlim=(0, 125), xticks=[0, 25, 50, 75, 100])
