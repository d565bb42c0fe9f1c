"""A client from its command line to its exit status."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import orjson

from .failure import Refused
from .options import Defaults, jobs, parse
from .picture import draw
from .run import Work, run, start
from .sounds import replace_file
from .summary import summarize, table

ANSWERED, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses: every line has its answer; some failed; the run could not begin or go on; it was interrupted."""

KEY = "SPEECHLM_API_KEY"
"""Environment variable with the server's key, if it wants one."""


def main(defaults: Defaults, arguments: list[str] | None = None) -> int:
    """Ask, and sum up; the exit status."""
    parsed = parse(defaults, arguments)
    try:
        with ExitStack() as stack:
            works = [start(job, fresh=parsed.fresh, stack=stack) for job in jobs(defaults, parsed)]
            ended = run(
                works,
                url=f"http://{_bracketed(parsed.host)}:{parsed.port}",
                key=os.environ.get(KEY),
                concurrency=parsed.concurrency,
                patience=parsed.timeout,
            )
            _sum_up(works, parsed.output)
    except Refused as refusal:
        print(refusal, file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        ended = False
    if not ended:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    if any(work.results.tally.failures for work in works):
        print("some lines failed; the same command asks for them again", file=sys.stderr)
        return FAILED
    return ANSWERED


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _sum_up(works: list[Work], output: Path) -> None:
    figures = [summarize(work) for work in works]
    for each in figures:
        print(table(each))
    summary, picture = (output.with_name(output.stem + suffix) for suffix in (".summary.json", ".summary.png"))
    replace_file(summary, orjson.dumps({"tasks": figures}, option=orjson.OPT_INDENT_2))
    replace_file(picture, draw(works))
    print(f"written: {', '.join(str(work.results.path) for work in works)}, {summary}, {picture}")
