"""Verify that a job is done, by comparing its files with its input."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from .failure import Refused
from .lines import digest_of_line
from .run import Work

_SHOWN = 5


def shortcomings(work: Work) -> list[str]:
    """Read the results back, and return what they lack.

    Raises:
        Refused: if the input has changed since the run began, or the results cannot be read.
    """
    digests = array("Q", bytes(8 * (work.seen.last + 1)))
    lost: list[str] = []
    for record in work.results.records():
        line = record["line"]
        if line <= work.seen.last:
            digests[line] = int(record["digest"], 16)
        if line in work.sounds and record["audio_seconds"] and not _is_kept(record, work.results.starts[-1]):
            lost.append(f"{work.results.path}: the sound of line {line} is missing")
    if work.source.survey(work.job.count) != work.seen:
        named = " or ".join(map(str, work.source.files))
        raise Refused(f"--input {named}: changed while it was read; start again with another --output")
    open_lines = _unanswered(work, digests)
    if shown := list(islice(open_lines, _SHOWN)):
        more = sum(1 for _ in open_lines)
        named = ", ".join(map(str, shown)) + (f" and {more} more" if more else "")
        lost.append(f"{work.source.path}: no answer in {work.results.path} to line {named}")
    return lost


def _unanswered(work: Work, digests: array[int]) -> Iterator[int]:
    for number, raw in work.source.lines(work.job.count):
        if digests[number] != int(digest_of_line(raw), 16):
            yield number


def _is_kept(record: dict[str, object], since: float) -> bool:
    """Whether a sound was written; that of an earlier run may have been moved since."""
    wav, finished = record.get("wav"), record["finished"]
    assert isinstance(finished, float | int)
    return isinstance(wav, str) and (finished < since or Path(wav).is_file())
