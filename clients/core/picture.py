"""The summary as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .run import Work
from .summary import as_numpy

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


def draw(works: Sequence[Work], now: float) -> bytes:
    """A PNG of what the runs came to, one colour for each of the works."""
    with mpl.rc_context(_STYLE):
        panels = [_latency, _progress]
        if any(work.job.task.speaks for work in works):
            panels.append(_sound)
        if any(work.results.tally.score.scored for work in works):
            panels.append(_accuracy)
        figure = Figure(figsize=(4.6 * len(panels), 3.6), layout="constrained")
        axes = np.atleast_1d(np.asarray(figure.subplots(1, len(panels))))
        for panel, place in zip(panels, axes, strict=True):
            panel(place, works, now)
        if len(works) > 1:
            handles, labels = axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper center", ncols=len(works))
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=130)
    return file.getvalue()


def _name(work: Work) -> str:
    task = work.job.task
    return f"{task.name} (cfg {task.cfg:g})" if task.speaks and task.cfg > 1 else task.name


def _latency(axes: Axes, works: Sequence[Work], _now: float) -> None:
    """Share of the answers that came within a time."""
    for work, colour in zip(works, _COLOURS, strict=False):
        seconds = np.sort(as_numpy(work.results.tally.seconds))
        share = 100 * np.arange(1, len(seconds) + 1) / max(len(seconds), 1)
        axes.step(seconds, share, where="post", color=colour, label=_name(work))
        if len(seconds):
            median = np.median(seconds)
            axes.plot(median, 50, "o", color=colour, markersize=4)
            axes.annotate(f"{median:.2g} s", (median, 50), (5, -9), textcoords="offset points", color=colour)
    axes.set(title="Latency", xlabel="seconds", ylabel="answers within, %", ylim=(0, 102), xlim=(0, None))


def _progress(axes: Axes, works: Sequence[Work], now: float) -> None:
    """Answers over time, across runs."""
    begin = min(work.results.starts[0] for work in works)
    unit, name = (60, "minutes") if now - begin > 300 else (1, "seconds")
    for work, colour in zip(works, _COLOURS, strict=False):
        tally = work.results.tally
        finished = np.sort(as_numpy(tally.finished)) - begin
        axes.step(finished / unit, np.arange(1, len(finished) + 1), where="post", color=colour)
        failed = as_numpy(tally.failed_at) - begin
        if len(failed):
            shown = failed[-_MOST_POINTS:]
            so_far = np.searchsorted(finished, shown, side="right")
            axes.plot(shown / unit, so_far, "x", color=_FAILED, markersize=5, label="failed")
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles[:1], labels[:1], loc="lower right")
    axes.set(title="Answers", xlabel=f"{name} since the first run began", ylabel="answered", xlim=(0, None))
    axes.set_ylim(0, None)


def _sound(axes: Axes, works: Sequence[Work], _now: float) -> None:
    """How long an answer took against how long it plays."""
    longest = 0.0
    for work, colour in zip(works, _COLOURS, strict=False):
        audio, seconds = as_numpy(work.results.tally.audio_seconds), as_numpy(work.results.tally.seconds)
        sounding = np.flatnonzero(audio > 0)[-_MOST_POINTS:]
        if len(sounding):
            axes.plot(audio[sounding], seconds[sounding], ".", color=colour, markersize=5, alpha=0.6)
            longest = max(longest, float(audio[sounding].max()))
    axes.plot([0, longest], [0, longest], "--", color="#888888", linewidth=1, label="as fast as it plays")
    axes.legend(loc="upper left")
    axes.set(title="Sound", xlabel="seconds of sound", ylabel="seconds to answer", xlim=(0, None), ylim=(0, None))


def _accuracy(axes: Axes, works: Sequence[Work], _now: float) -> None:
    """Accuracy, overall and by the groups of the input."""
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
    axes.set(title="Accuracy", xlabel="% right (of how many)", xlim=(0, 125), xticks=[0, 25, 50, 75, 100])
