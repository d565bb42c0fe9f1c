"""The figures of a run, counted as answers arrive: a few numbers per answer."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any


class Score:
    """The number of correct answers among those that were scored."""

    def __init__(self) -> None:
        self.right = self.scored = 0

    def add(self, right: bool) -> None:
        """Count one more."""
        self.right += right
        self.scored += 1

    def figures(self) -> dict[str, Any]:
        """Return the figures for the summary; empty if nothing was scored."""
        return {"accuracy": self.right / self.scored, "right": self.right, "of": self.scored}


class Tally:
    """The figures of one results file, over all the runs that wrote it.

    Attributes:
        seconds, audio_seconds, finished: of each answer: its duration, its sound, and when it arrived (since the
            epoch).
        tokens: prompt, completion and audio tokens.
        finish_reasons, warnings, failures: counts; failures are those of the last run, which retried earlier ones.
        score: of all scored answers.
        choice_score, mmau_score: of those with choices, by this scorer and by MMAU's published one.
        unthought_score: of those without ``</think>``.
        groups: by field of the input and its value.
    """

    def __init__(self) -> None:
        self.seconds, self.audio_seconds, self.finished = array("d"), array("d"), array("d")
        self.tokens: Counter[str] = Counter()
        self.finish_reasons: Counter[str] = Counter()
        self.warned = 0
        self.failures: Counter[str] = Counter()
        self.failed_at = array("d")
        self.score, self.unthought_score = Score(), Score()
        self.choice_score, self.mmau_score = Score(), Score()
        self.groups: defaultdict[str, defaultdict[str, Score]] = defaultdict(lambda: defaultdict(Score))

    def answered(self, record: Mapping[str, Any]) -> None:
        """Count a record of the results.

        Raises:
            LookupError, TypeError: if it is not a record.
        """
        self.finish_reasons[record["finish_reason"]] += 1
        self.warned += bool(record["warnings"])
        for name in ("prompt_tokens", "completion_tokens", "audio_tokens"):
            self.tokens[name] += record[name]
        if "right" in record:
            self.score.add(record["right"])
            if "right_for_mmau" in record:
                self.choice_score.add(record["right"])
                self.mmau_score.add(record["right_for_mmau"])
            if not record["thought"]:
                self.unthought_score.add(record["right"])
            for name, value in record["groups"].items():
                self.groups[name][value].add(record["right"])
        self.seconds.append(record["seconds"])
        self.audio_seconds.append(record["audio_seconds"])
        self.finished.append(record["finished"])

    def failed(self, kind: str, when: float) -> None:
        """Count a line without an answer."""
        self.failures[kind] += 1
        self.failed_at.append(when)

    def running_seconds(self, starts: Sequence[float]) -> float:
        """Return the seconds in which a run was active, each from its start to its last result."""
        ends = list(starts)
        for when in (*self.finished, *self.failed_at):
            if run := bisect_right(starts, when):
                ends[run - 1] = max(ends[run - 1], when)
        return sum(end - start for start, end in zip(starts, ends, strict=True))
