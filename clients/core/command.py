"""Run a client, from its command line to its exit status."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import orjson

from .check import shortcomings
from .espnet import EspnetResults
from .failure import Refused
from .ledger import check, write
from .options import Defaults, jobs, parse
from .run import Work, run, start
from .summary import summarize, table

ANSWERED, LACKING, REFUSED, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses: every line has its answer, and its sound if requested; some do not; the run could not start or
continue; it was interrupted."""

KEY = "SPEECHLM_API_KEY"
"""Environment variable with the server's key, if it has one."""


def main(defaults: Defaults, arguments: list[str] | None = None) -> int:
    """Run the jobs and write the summary; return the exit status."""
    parsed = parse(defaults, arguments)
    try:
        with ExitStack() as stack:
            works = [start(job, fresh=parsed.fresh, stack=stack) for job in jobs(defaults, parsed)]
            for path in _summaries(parsed.output):
                check(
                    path,
                    [work.results.ledger for work in works],
                    [file for work in works for file in work.source.files],
                )
            ended = run(
                works,
                url=f"http://{_bracketed(parsed.host)}:{parsed.port}",
                key=_key(),
                concurrency=parsed.concurrency,
                patience=parsed.timeout,
            )
            _sum_up(works, parsed.output)
            lacking = [lack for work in works for lack in shortcomings(work)] if ended else []
    except Refused as refusal:
        _print(str(refusal), error=True)
        return REFUSED
    except KeyboardInterrupt:
        ended, lacking = False, []
    if not ended:
        _print("interrupted; run the same command again to resume", error=True)
        return INTERRUPTED
    for lack in lacking:
        _print(lack, error=True)
    if any(work.results.tally.failures for work in works):
        _print("some lines failed; run the same command again to retry them", error=True)
    return LACKING if lacking else ANSWERED


def _key() -> str | None:
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise Refused(f"{KEY}: must be printable ASCII")
    return key or None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _summaries(output: Path) -> tuple[Path, Path]:
    return output.with_name(f"{output.stem}.summary.json"), output.with_name(f"{output.stem}.summary.png")


def _sum_up(works: list[Work], output: Path) -> None:
    from .picture import draw  # with matplotlib, which takes half of a client's start

    figures = [summarize(work) for work in works]
    for of_task in figures:
        _print(table(of_task))
    written = [str(work.results.path) for work in works]
    for work in works:
        answers, path = EspnetResults(work.results), work.results.beside(".results.json")
        write(path, answers.chunks(), [work.results.ledger])
        written.append(str(path))
        if answers.doubled:
            _print(f"{path}: {answers.doubled} answers share their id with another line; the line number was appended")
    ledgers = [work.results.ledger for work in works]
    summary, picture = _summaries(output)
    write(summary, [orjson.dumps({"tasks": figures}, option=orjson.OPT_INDENT_2)], ledgers)
    write(picture, [draw(works)], ledgers)
    _print(f"written: {', '.join([*written, str(summary), str(picture)])}")


def _print(message: str, *, error: bool = False) -> None:
    """Print a message; ignore a closed output."""
    try:
        print(message, file=sys.stderr if error else sys.stdout, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), (sys.stderr if error else sys.stdout).fileno())
