"""On a GPU: the cost of steps at the released model's sizes, relative to the minimum that the card's memory allows.

    python -m benchmarks.gpu --output benchmarks/results/gpu.json

The weights are dummies of the real sizes (8B, bfloat16), CUDA graphs are on, and the server runs as users run it. The
cost of a step is measured as in `benchmarks/step_cost.py`, as time. The floor is the time for reading weights and KV
cache at the bandwidth of the card's clock and bus.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.checkpoints import released_sizes
from benchmarks.floor import cache_bytes, floor_ms, nominal_bandwidth, weight_bytes
from benchmarks.machine import record, title
from benchmarks.step_cost import PROMPT, SHORT, STEPS, measure
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.process import running

ROWS_OF = {"text": 1.0, "audio": 1.0, "guided": 2.0, "mixed_audio": 1.0, "mixed_guided": 1.5}
"""Rows of a batch per answer, by kind of step."""


def with_floors(row: dict[str, Any], config: SpeechLMConfig, steps: int, bytes_per_second: float) -> dict[str, Any]:
    """Return a row of the table with the floor of each kind of step, halfway through the measured steps."""
    positions = PROMPT + SHORT + steps // 2
    floors: dict[str, Any] = {}
    for kind in STEPS:
        if f"{kind}_ms" in row:
            rows = round(row["rows"] * ROWS_OF[kind])
            floor = floor_ms(config, rows=rows, positions=positions, bytes_per_second=bytes_per_second)
            floors[f"{kind}_floor_ms"] = round(floor, 3)
            floors[f"{kind}_by_floor"] = round(row[f"{kind}_ms"] / floor, 3)
    return row | floors


def _draw(table: Sequence[dict[str, Any]], shown: str, file: Path) -> None:
    from matplotlib.figure import Figure  # tests of the rest need no pictures

    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    rows = [row["rows"] for row in table]
    for kind in ("text", "audio", "guided"):
        line = axes.plot(rows, [row[f"{kind}_ms"] for row in table], "o-", label=kind)[0]
        axes.plot(rows, [row[f"{kind}_floor_ms"] for row in table], ":", color=line.get_color(), label=f"{kind}, floor")
    axes.set_xscale("log", base=2)
    axes.set_xticks(rows, [str(count) for count in rows])
    axes.set(xlabel="concurrent answers", ylabel="ms per step", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.suptitle(shown, fontsize=9)
    figure.savefig(file, dpi=120)


def main() -> None:
    """Measure, print a table, and write it with a description of the machine, and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 64], help="batch sizes (default: 1 4 16 64)")
    parser.add_argument("--steps", type=int, default=256, help="decode steps to measure (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of measurement (default: %(default)s)")
    parser.add_argument(
        "--model", type=Path, default=Path(".checkpoints/released-sizes"), help="checkpoint directory; built if missing"
    )
    parser.add_argument("--output", type=Path, help="JSON file for the figures; a PNG is written next to it")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks.gpu: no CUDA device found; benchmarks.step_cost measures on a CPU")
    card = torch.cuda.get_device_properties(0)
    bandwidth = nominal_bandwidth(card.memory_clock_rate, card.memory_bus_width)
    model = released_sizes(args.model)
    config = SpeechLMConfig.from_pretrained(model)
    weights = weight_bytes(config) / 1e9
    print(f"{card.name}: {bandwidth / 1e12:.2f} TB/s; every step reads {weights:.2f} GB of weights,", end=" ")
    print(f"and {cache_bytes(config, 1) / 1e3:.0f} kB for each position of each row", flush=True)
    table = []
    options = ["--load-format", "dummy", "--cuda-graph-max-bs-decode", str(2 * max(args.rows))]
    with running(model, model / "server.log", options) as server:
        for rows in args.rows:
            row = asyncio.run(measure(server.url, time.perf_counter, rows, args.steps, args.rounds))
            row = with_floors(row, config, args.steps, bandwidth)
            table.append(row)
            kinds = [kind for kind in STEPS if f"{kind}_ms" in row]
            shown = (f"{kind} {row[f'{kind}_ms']:.2f} ({row[f'{kind}_by_floor']:.2f})" for kind in kinds)
            print(f"N = {rows:3d}: ms per step (relative to its floor): {', '.join(shown)}", flush=True)
    if args.output:
        figures = {"steps": args.steps, "bytes_per_second": bandwidth, "weight_bytes": weight_bytes(config)}
        machine = record(args.output, {**figures, "table": table})
        _draw(table, title("8B, dummy weights, CUDA graphs", machine), args.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
