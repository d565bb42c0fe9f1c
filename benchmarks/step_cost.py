"""What a frame, and a guided frame, costs against a token of text, in steps of N answers, on one checkpoint.

    python -m benchmarks.step_cost --output benchmarks/results/step_cost.json

The server runs as users run it, in a process of its own on one core. The cost of a step is the difference between a
long and a short run of N equal requests, divided by the steps between them, so that prefill, HTTP and start-up cancel
out. Where all N answers are spoken, the ratio is that of two steps. In a mixed step every other answer is a text; half
of a step of N texts is taken off, and what is left is compared with the other half. Kinds of step take turns, round by
round, and the ratio is the median over rounds of ratios within a round: the machine's speed may drift, the comparison
does not.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.checkpoints import WIDE, built
from benchmarks.machine import record
from sglang_speechlm.model.requests import AUDIO, CFG, MIN_FRAMES
from sglang_speechlm.worker import running

STEPS: dict[str, tuple[str, ...]] = {
    "text": ("text",),
    "audio": ("audio",),
    "guided": ("guided",),
    "mixed_audio": ("text", "audio"),
    "mixed_guided": ("text", "guided"),
}
"""Kinds of step: what its answers are, in turn."""
SHORT = 8


def body(kind: str, steps: int, row: int) -> dict[str, Any]:
    """A request to /generate for an answer of exactly ``steps`` steps; ``row`` makes its prompt another one."""
    config = WIDE.config()
    prompt = [config.ids.bos, config.ids.user, config.ids.text, *range(300 + 40 * row, 330 + 40 * row)]
    params: dict[str, Any] = {"temperature": 0.8, "top_k": 20, "max_new_tokens": steps, "ignore_eos": True}
    if kind == "text":
        prompt += [config.ids.eos, config.ids.assistant, config.ids.text]
    else:
        prompt += [config.ids.eos, config.ids.assistant, config.ids.audio]
        params["custom_params"] = {AUDIO: True, MIN_FRAMES: steps + 1, CFG: 3.0 if kind == "guided" else 1.0}
    return {"input_ids": prompt, "sampling_params": params}


async def _run(client: httpx.AsyncClient, kinds: tuple[str, ...], rows: int, steps: int) -> float:
    """Seconds for ``rows`` answers of ``steps`` steps, all at once."""
    bodies = [body(kinds[row % len(kinds)], steps, row) for row in range(rows)]
    begin = time.perf_counter()
    answers = await asyncio.gather(*(client.post("/generate", json=each, timeout=600) for each in bodies))
    seconds = time.perf_counter() - begin
    for answer in answers:
        answer.raise_for_status()
        assert answer.json()["meta_info"]["completion_tokens"] == steps
    return seconds


async def _measure(url: str, rows: int, steps: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds per step by its kind, one figure a round; there is no mixed step of a single row."""
    costs: dict[str, list[float]] = {kind: [] for kind, answers in STEPS.items() if len(answers) <= rows}
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        for kind in costs:
            await _run(client, STEPS[kind], rows, SHORT)
        for _ in range(rounds):
            for kind in costs:
                short = await _run(client, STEPS[kind], rows, SHORT)
                long = await _run(client, STEPS[kind], rows, SHORT + steps)
                costs[kind].append(1000 * (long - short) / steps)
    return costs


def _per_text(kind: str, step: float, text_step: float) -> float:
    """What one of the answers that are no texts costs in a step, by what a text costs."""
    share = 1 / len(STEPS[kind])
    return (step - (1 - share) * text_step) / (share * text_step)


def main() -> None:
    """Measure, print a table, and write it with the machine that it is of."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16], help="batch sizes (default: 1 4 16)")
    parser.add_argument("--steps", type=int, default=48, help="steps that are counted (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: %(default)s)")
    parser.add_argument("--model", type=Path, default=Path(".checkpoints/step-cost"), help="built if it is not there")
    parser.add_argument("--output", type=Path, help="where to write the figures as JSON")
    args = parser.parse_args()
    table = []
    model = built(args.model, WIDE)
    one_core = {"OMP_NUM_THREADS": "1"}
    options = ["--max-total-tokens", "16384"]
    with running(model, model / "server.log", options, environment=one_core, cores={0}) as worker:
        for rows in args.rows:
            costs = asyncio.run(_measure(worker.url, rows, args.steps, args.rounds))
            row: dict[str, Any] = {"rows": rows}
            for kind in costs:
                row[f"{kind}_ms"] = round(statistics.median(costs[kind]), 3)
                ratios = [_per_text(kind, *pair) for pair in zip(costs[kind], costs["text"], strict=True)]
                row[f"{kind}_per_text"] = round(statistics.median(ratios), 3)
            table.append(row)
            shown = ", ".join(f"{kind} {row[f'{kind}_per_text']:.2f}" for kind in costs if kind != "text")
            print(f"N = {rows:3d}: {row['text_ms']:8.2f} ms a step of text; by that: {shown}", flush=True)
    if args.output:
        record(args.output, {"steps": args.steps, "table": table})


if __name__ == "__main__":
    main()
