"""The cost and the memory of a frame as the answer grows, up to 12,000 frames.

    python -m benchmarks.length --output benchmarks/results/length.json

One answer at a time (text, frames, guided frames) on the small checkpoint, where the runtime causes nearly all of a
step's cost. The scheduler's log shows the progress and the used positions of the cache; the measure is the processor
time of all the server's processes between two log lines. Attention makes later positions more expensive, for texts and
frames alike. Therefore the growth of a text's step is subtracted from a frame's, once per row, before the two ends are
compared; the rest is the runtime's own.
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
from sglang_speechlm.process import ServerProcess, running

KINDS = {"text": 1, "audio": 1, "guided": 2}
"""Rows of a batch per answer, by kind of answer."""
EARLY, LATE = 400, 4000
INTERVAL = 50
"""Steps between two log lines."""
NEAR = 0.15
"""Maximum distance of a figure from these positions, as a share of them."""
_LINE = re.compile(r"Decode batch, #running-req: (\d+), #token: (\d+),")
_LOOK_SECONDS = 0.02

Point = tuple[int, float]
"""Number of positions of an answer, and milliseconds of a step there."""


def _answer(server: ServerProcess, log: Path, kind: str, steps: int) -> list[Point]:
    """Run one answer of ``steps`` steps alone; return its points from the scheduler's log."""
    points: list[Point] = []
    with ThreadPoolExecutor(1) as pool, log.open() as output:
        output.seek(0, os.SEEK_END)
        request = body(kind, steps, 0)
        answer = pool.submit(httpx.post, f"{server.url}/generate", json=request, timeout=7200, trust_env=False)
        last: float | None = None
        while not answer.done():
            time.sleep(_LOOK_SECONDS)
            lines = _LINE.findall(output.read())
            if not lines:
                continue
            now = processor.seconds(server)
            rows, positions = map(int, lines[-1])
            assert rows == KINDS[kind], f"{rows} rows where one answer takes {KINDS[kind]}"
            if last is not None and positions:  # the last line of an answer has none
                points.append((positions, 1000 * (now - last) / (INTERVAL * len(lines))))
            last = now
        answer.result().raise_for_status()
    return points


def _at(points: Sequence[Point], position: int, rows: int) -> float:
    """Return the median milliseconds of a step near a position of the answer."""
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
    """Return the bytes of KV cache for one position of one row, in float32."""
    text = SMALL.config().text_config
    return 2 * int(text.num_hidden_layers * text.num_key_value_heads * text.head_dim) * 4


def _draw(curves: dict[str, list[Point]], shown: str, file: Path) -> None:
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    for kind, points in curves.items():
        axes.plot([positions / KINDS[kind] for positions, _ in points], [ms for _, ms in points], label=kind)
    axes.set(xlabel="length of the answer in steps", ylabel="ms per step", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.suptitle(shown, fontsize=9)
    figure.savefig(file, dpi=120)


def main() -> None:
    """Measure, print a table, and write it with a description of the machine, and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12000, help="answer length in steps (default: %(default)s)")
    parser.add_argument(
        "--model", type=Path, default=Path(".checkpoints/serving"), help="checkpoint directory; built if missing"
    )
    parser.add_argument("--output", type=Path, help="JSON file for the figures; a PNG is written next to it")
    args = parser.parse_args()
    model, log = built(args.model, SMALL), args.model / "server.log"
    options = ["--max-total-tokens", str(2 * args.steps + 1024), "--decode-log-interval", str(INTERVAL)]
    core = processor.one_core()
    with running(model, log, options, environment=processor.ONE_THREAD, cores=core) as server:
        curves = {kind: _answer(server, log, kind, args.steps) for kind in KINDS}
    table = [_row(kind, points, curves["text"]) for kind, points in curves.items()]
    for row in table:
        print(", ".join(f"{name} {value}" for name, value in row.items()))
    if args.output:
        machine = record(args.output, {"steps": args.steps, "table": table, "positions_and_ms": curves})
        _draw(curves, title("the small checkpoint", machine), args.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
