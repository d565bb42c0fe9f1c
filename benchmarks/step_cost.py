"""The cost of a frame and of a guided frame relative to a text token, in steps of N answers, on one checkpoint.

    python -m benchmarks.step_cost --output benchmarks/results/step_cost.json

The server runs as users run it, on one core, and the measure is the processor time of all its processes. The cost of a
step is the difference between a long and a short run of N equal requests, divided by the steps between them, so that
prefill, HTTP and start-up cancel out. If all N answers are spoken, the ratio is that of two steps. In a mixed step,
every other answer is a text; half of a step of N texts is subtracted, and the rest is compared with the other half.
Kinds of step alternate in each round, and the ratio is the median over rounds of the ratios within a round, so a drift
of the machine's speed does not affect it.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from benchmarks import processor
from benchmarks.checkpoints import WIDE, built
from benchmarks.machine import record, title
from sglang_speechlm.process import running
from sglang_speechlm.stage import StageParams

STEPS: dict[str, tuple[str, ...]] = {
    "text": ("text",),
    "audio": ("audio",),
    "guided": ("guided",),
    "mixed_audio": ("text", "audio"),
    "mixed_guided": ("text", "guided"),
}
"""Kinds of step: the kinds of its answers, in turn."""
SHORT = 8
PROMPT = 36
"""Number of positions of a request's prompt."""
MUST_HOLD = {"audio": 0.8, "guided": 1.6, "mixed_audio": 1.15, "mixed_guided": 2.1}
"""Maximum cost of each kind, in text tokens."""

Clock = Callable[[], float]
"""Returns seconds so far."""


def body(kind: str, steps: int, row: int) -> dict[str, Any]:
    """Return a request to /generate for an answer of exactly ``steps`` steps; ``row`` makes its prompt unique."""
    config = WIDE.config()
    prompt = [config.ids.bos, config.ids.user, config.ids.text, *range(300 + 40 * row, 330 + 40 * row)]
    params: dict[str, Any] = {"temperature": 0.8, "top_k": 20, "max_new_tokens": steps, "ignore_eos": True}
    if kind == "text":
        prompt += [config.ids.eos, config.ids.assistant, config.ids.text]
    else:
        prompt += [config.ids.eos, config.ids.assistant, config.ids.audio]
        scale = 3.0 if kind == "guided" else 1.0
        params["custom_params"] = StageParams(audio=True, min_frames=steps + 1, cfg=scale).model_dump()
    return {"input_ids": prompt, "sampling_params": params}


async def _run(client: httpx.AsyncClient, clock: Clock, kinds: tuple[str, ...], rows: int, steps: int) -> float:
    """Return the seconds for ``rows`` concurrent answers of ``steps`` steps."""
    bodies = [body(kinds[row % len(kinds)], steps, row) for row in range(rows)]
    begin = clock()
    answers = await asyncio.gather(*(client.post("/generate", json=body) for body in bodies))
    seconds = clock() - begin
    for answer in answers:
        answer.raise_for_status()
        assert answer.json()["meta_info"]["completion_tokens"] == steps
    return seconds


async def measure(url: str, clock: Clock, rows: int, steps: int, rounds: int) -> dict[str, Any]:
    """Return, for each kind of step, milliseconds and cost in text tokens; a single row has no mixed step."""
    costs: dict[str, list[float]] = {kind: [] for kind, answers in STEPS.items() if len(answers) <= rows}
    limits = httpx.Limits(max_connections=rows)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=600, trust_env=False) as client:
        for kind in costs:
            await _run(client, clock, STEPS[kind], rows, SHORT)
        for _ in range(rounds):
            for kind in costs:
                short = await _run(client, clock, STEPS[kind], rows, SHORT)
                long = await _run(client, clock, STEPS[kind], rows, SHORT + steps)
                costs[kind].append(1000 * (long - short) / steps)
    row: dict[str, Any] = {"rows": rows}
    for kind in costs:
        row[f"{kind}_ms"] = round(statistics.median(costs[kind]), 3)
        ratios = [_per_text(kind, *pair) for pair in zip(costs[kind], costs["text"], strict=True)]
        row[f"{kind}_per_text"] = round(statistics.median(ratios), 3)
    return row


def _per_text(kind: str, step: float, text_step: float) -> float:
    """Return the cost of one of the answers that are not texts, relative to a text."""
    share = 1 / len(STEPS[kind])
    return (step - (1 - share) * text_step) / (share * text_step)


def _draw(table: Sequence[dict[str, Any]], shown: str, file: Path) -> None:
    from matplotlib.figure import Figure  # tests of the rest need no pictures

    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(table)
    for place, row in enumerate(table):
        kinds = [kind for kind in MUST_HOLD if f"{kind}_per_text" in row]
        middle = [list(MUST_HOLD).index(kind) - 0.4 + width * (place + 0.5) for kind in kinds]
        bars = axes.bar(middle, [row[f"{kind}_per_text"] for kind in kinds], width, label=f"{row['rows']} concurrent")
        axes.bar_label(bars, fmt="%.2f", fontsize=7)
    places = range(len(MUST_HOLD))
    left, right = ([place + side for place in places] for side in (-0.45, 0.45))
    axes.hlines(list(MUST_HOLD.values()), left, right, colors="black", label="at most")
    axes.set_xticks(places, ["frames", "guided frames", "frames with texts", "guided with texts"])
    axes.set(ylabel="cost in text tokens")
    axes.legend(fontsize=8, loc="upper left")
    figure.suptitle(shown, fontsize=9)
    figure.savefig(file, dpi=120)


def main() -> None:
    """Measure, print a table, and write it with a description of the machine, and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16], help="batch sizes (default: 1 4 16)")
    parser.add_argument("--steps", type=int, default=48, help="decode steps to measure (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of measurement (default: %(default)s)")
    parser.add_argument(
        "--model", type=Path, default=Path(".checkpoints/step-cost"), help="checkpoint directory; built if missing"
    )
    parser.add_argument("--output", type=Path, help="JSON file for the figures; a PNG is written next to it")
    args = parser.parse_args()
    table = []
    model = built(args.model, WIDE)
    options = ["--max-total-tokens", "16384"]
    with running(
        model, model / "server.log", options, environment=processor.ONE_THREAD, cores=processor.one_core()
    ) as server:
        clock = partial(processor.seconds, server)
        for rows in args.rows:
            row = asyncio.run(measure(server.url, clock, rows, args.steps, args.rounds))
            table.append(row)
            ratios = [f"{kind} {row[f'{kind}_per_text']:.2f}" for kind in MUST_HOLD if f"{kind}_per_text" in row]
            print(
                f"N = {rows:3d}: {row['text_ms']:8.2f} ms per step of text; relative to that: {', '.join(ratios)}",
                flush=True,
            )
    if args.output:
        machine = record(args.output, {"steps": args.steps, "must_hold": MUST_HOLD, "table": table})
        _draw(table, title("8 layers, hidden 512, 160,392 ids, bfloat16", machine), args.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
