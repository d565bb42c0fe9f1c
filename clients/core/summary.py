"""Summarise a run, for people and as JSON."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .run import Work
from .tally import Tally

PERCENTILES = (50, 90, 95, 99)


def summarize(work: Work) -> dict[str, Any]:
    """Return the figures of one job, over all runs that contributed to its results.

    ``real_time_factor`` is the time that an answer took divided by the length of its sound: below 1 it is faster than
    playback. Figures per second refer to the seconds in which a run was active.
    """
    tally, starts = work.results.tally, work.results.starts
    running = tally.running_seconds(starts)
    seconds, audio = as_numpy(tally.seconds), as_numpy(tally.audio_seconds)
    sounding = audio > 0
    figures: dict[str, Any] = {
        "task": work.job.task.name,
        "cfg": work.job.task.cfg if work.job.task.speaks else None,
        "input": ", ".join(map(str, work.source.files)),
        "output": str(work.results.path),
        "lines": work.seen.lines,
        "answered": len(seconds),
        "failed": tally.failures.total(),
        "left": work.left,
        "failures": dict(tally.failures.most_common()),
        "answers_with_warnings": tally.warned,
        "finish_reasons": dict(tally.finish_reasons.most_common()),
        "runs": len(starts),
        "running_seconds": round(running, 3),
        "requests_per_second": round(len(seconds) / running, 4) if running else None,
        "latency_seconds": distribution(seconds),
        "tokens": dict(tally.tokens),
    }
    if work.job.task.speaks:
        figures["audio"] = {
            "answers_with_sound": int(sounding.sum()),
            "answers_without_sound": int((~sounding).sum()),
            "seconds": round(float(audio.sum()), 3),
            "seconds_per_second": round(float(audio.sum()) / running, 4) if running else None,
            "real_time_factor": distribution(seconds[sounding] / audio[sounding]),
        }
    if tally.score.scored:
        figures["accuracy"] = accuracy_of(tally)
    return figures


def accuracy_of(tally: Tally) -> dict[str, Any]:
    """Return the shares of correct answers, of all scored ones and of groups of them."""
    by = {name: {value: of[value].figures() for value in sorted(of)} for name, of in tally.groups.items()}
    accuracy: dict[str, Any] = {**tally.score.figures(), "by": by}
    parts = {
        "with_choices": tally.choice_score,
        "by_mmaus_scorer": tally.mmau_score,
        "without_thinking": tally.unthought_score,
    }
    return accuracy | {name: score.figures() for name, score in parts.items() if score.scored}


def as_numpy(values: array[float]) -> npt.NDArray[np.float64]:
    """Return the same numbers as float64 ``[n]``; the array must not grow while the result is in use."""
    return np.frombuffer(values) if values else np.zeros(0)


def distribution(values: npt.NDArray[np.float64]) -> dict[str, float] | None:
    """Return mean, percentiles and maximum; None without values."""
    if not len(values):
        return None
    ranks = dict(zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True))
    named = {"mean": values.mean(), **{f"p{rank}": value for rank, value in ranks.items()}, "max": values.max()}
    return {name: round(float(value), 4) for name, value in named.items()}


def table(figures: Mapping[str, Any]) -> str:
    """Return the figures in a few lines."""
    rows = [_counts(figures), *_speeds(figures)]
    if accuracy := figures.get("accuracy"):
        rows += accuracy_rows(accuracy)
    title = figures["task"] if figures["cfg"] is None else f"{figures['task']}, cfg {figures['cfg']:g}"
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join([title, *(f"  {name:{width}}  {value}" for name, value in rows)])


def _counts(figures: Mapping[str, Any]) -> tuple[str, str]:
    parts = [f"{figures['answered']} of {figures['lines']} answered"]
    if figures["failed"]:
        kinds = ", ".join(f"{kind} {count}" for kind, count in figures["failures"].items())
        parts.append(f"{figures['failed']} failed ({kinds})")
    if figures["left"]:
        parts.append(f"{figures['left']} left")
    return "lines", "; ".join(parts)


def _speeds(figures: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    if not figures["latency_seconds"]:
        return []
    rows = [
        ("requests", f"{figures['requests_per_second']:.2f}/s over {figures['running_seconds']:.1f} s"),
        ("latency", f"{_spread(figures['latency_seconds'])} s"),
    ]
    if audio := figures.get("audio"):
        silent = f"; {audio['answers_without_sound']} answers without sound" if audio["answers_without_sound"] else ""
        rows.append(("sound", f"{audio['seconds']:.1f} s, {audio['seconds_per_second']:.2f} s per second{silent}"))
        if audio["real_time_factor"]:
            rows.append(("real-time factor", _spread(audio["real_time_factor"])))
    return rows


def accuracy_rows(accuracy: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the shares in a few rows, with MMAU's if it differs, and those without thinking if others have it."""
    rows = [("accuracy", _share(accuracy))]
    if (published := accuracy.get("by_mmaus_scorer")) and published != accuracy["with_choices"]:
        rows.append(("  with choices", _share(accuracy["with_choices"])))
        rows.append(("  by MMAU's own scorer", _share(published)))
    if (unthought := accuracy.get("without_thinking")) and unthought["of"] < accuracy["of"]:
        rows.append(("  of which without </think>", _share(unthought)))
    rows += [
        (f"  {name}: {value}", _share(score)) for name, of in accuracy["by"].items() for value, score in of.items()
    ]
    return rows


def _share(score: Mapping[str, Any]) -> str:
    return f"{100 * score['accuracy']:5.1f} %  ({score['right']} of {score['of']})"


def _spread(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in values.items())
