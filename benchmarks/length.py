"""What a frame costs and what memory it takes as the answer grows, up to 12,000 frames.

    python -m benchmarks.length --output benchmarks/results/length.json

One answer at a time, of text, of frames and of guided frames, on the small checkpoint, where nearly all that a step
costs is the runtime's own. The scheduler's log says how far it is and how many positions of the cache are taken; what
counts is the processor time of all the server's processes from line to line. Attention makes every later position cost
more, a text's as much as a frame's: what a text's step grew by is taken off a frame's, once for each row, before the
two ends are compared, and what is left is the runtime's own.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from matplotlib.figure import Figure

from benchmarks import processor
from benchmarks.checkpoints import SMALL, built
from benchmarks.machine import record, title
from benchmarks.step_cost import body
from sglang_speechlm.process import Worker, running

KINDS = {"text": 1, "audio": 1, "guided": 2}
"""Kinds of answer, and the rows of a batch that each takes."""
EARLY, LATE = 400, 4000
INTERVAL = 50
"""Steps between two lines of the log."""
NEAR = 0.15
"""How far from these positions a figure may be taken, as a share of them."""
_LINE = re.compile(r"Decode batch, #running-req: (\d+), #token: (\d+),")
_LOOK_SECONDS = 0.02

Point = tuple[int, float]
"""Positions of an answer so far, and milliseconds of a step."""


def _answer(worker: Worker, log: Path, kind: str, steps: int) -> list[Point]:
    """One answer of so many steps, alone, as the scheduler logs it."""
    points: list[Point] = []
    with ThreadPoolExecutor(1) as pool, log.open() as output:
        output.seek(0, os.SEEK_END)
        request = body(kind, steps, 0)
        answer = pool.submit(httpx.post, f"{worker.url}/generate", json=request, timeout=7200, trust_env=False)
        last: float | None = None
        while not answer.done():
            time.sleep(_LOOK_SECONDS)
            lines = _LINE.findall(output.read())
            if not lines:
                continue
            now = processor.seconds(worker)
            rows, positions = map(int, lines[-1])
            assert rows == KINDS[kind], f"{rows} rows where one answer takes {KINDS[kind]}"
            if last is not None and positions:  # none are left in the last line of an answer
                points.append((positions, 1000 * (now - last) / (INTERVAL * len(lines))))
            last = now
        answer.result().raise_for_status()
    return points


def _at(points: Sequence[Point], position: int, rows: int) -> float:
    """Milliseconds of a step near a position of the answer: the median of what was logged there."""
    near = [ms for positions, ms in points if abs(positions / rows - position) <= NEAR * position]
    return statistics.median(near)


def _row(kind: str, points: Sequence[Point], text: Sequence[Point]) -> dict[str, Any]:
    rows = KINDS[kind]
    early, late = _at(points, EARLY, rows), _at(points, LATE, rows)
    positions = (points[-1][0] - points[0][0]) / (INTERVAL * (len(points) - 1))
    attention = rows * (_at(text, LATE, 1) - _at(text, EARLY, 1))
    return {
        "kind": kind,
        f"ms_at_{EARLY}": round(early, 3),
        f"ms_at_{LATE}": round(late, 3),
        "growth": round(late / early, 3),
        "growth_beyond_attention": round((late - attention) / early, 3),
        "cache_bytes_per_step": round(positions * _position_bytes()),
    }


def _position_bytes() -> int:
    """Bytes of the KV cache for one position of one row, in float32."""
    text = SMALL.config().text_config
    return 2 * int(text.num_hidden_layers * text.num_key_value_heads * text.head_dim) * 4


def _draw(curves: dict[str, list[Point]], shown: str, file: Path) -> None:
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    for kind, points in curves.items():
        axes.plot([positions / KINDS[kind] for positions, _ in points], [ms for _, ms in points], label=kind)
    axes.set(xlabel="length of the answer, in steps", ylabel="ms a step", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.suptitle(shown, fontsize=9)
    figure.savefig(file, dpi=120)


def main() -> None:
    """Measure, print a table, write it with the machine that it is of, and draw it beside."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12000, help="length of the answers (default: %(default)s)")
    parser.add_argument("--model", type=Path, default=Path(".checkpoints/serving"), help="built if it is not there")
    parser.add_argument("--output", type=Path, help="where to write the figures as JSON, and a PNG beside")
    args = parser.parse_args()
    model, log = built(args.model, SMALL), args.model / "server.log"
    options = ["--max-total-tokens", str(2 * args.steps + 1024), "--decode-log-interval", str(INTERVAL)]
    core = processor.one_core()
    with running(model, log, options, environment=processor.ONE_THREAD, cores=core) as worker:
        curves = {kind: _answer(worker, log, kind, args.steps) for kind in KINDS}
    table = [_row(kind, points, curves["text"]) for kind, points in curves.items()]
    for row in table:
        print(", ".join(f"{name} {value}" for name, value in row.items()))
    if args.output:
        machine = record(args.output, {"steps": args.steps, "table": table, "positions_and_ms": curves})
        _draw(curves, title("the small checkpoint", machine), args.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
