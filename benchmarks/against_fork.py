"""The cost of a guided answer, both stages together, relative to the same answer by the fork's algorithm.

    python -m benchmarks.against_fork --output benchmarks/results/against_fork.json

N concurrent answers of a fixed number of text tokens and frames, on one checkpoint and one core, alternating in one
run: the server as users run it, over HTTP, and `benchmarks/fork.py` as a loop in this process, without HTTP. Neither
generates the sound. The measure is the processor time of all the server's processes and of the loop; the ratio is the
median over rounds of the ratios within a round.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import torch
from matplotlib.figure import Figure

from benchmarks import processor
from benchmarks.checkpoints import WIDE, built
from benchmarks.fork import TEMPERATURE, TOP_K, Fork
from benchmarks.machine import record, title
from sglang_speechlm.process import ServerProcess, running
from sglang_speechlm.stage import StageParams

SCALE = 3.0
PROMPT = 40
MUST_HOLD = 0.6
"""Maximum share of the loop's time that the server may take."""


def _prompt(number: int) -> list[int]:
    ids = WIDE.config().ids
    words = range(300 + 97 * number, 300 + 97 * number + PROMPT)
    return [ids.bos, ids.user, ids.text, *words, ids.eos, ids.assistant, ids.text]


async def _answer(client: httpx.AsyncClient, number: int, text: int, frames: int) -> None:
    """Run both stages of one answer, the second on the first one's cached prefix, as the server's own program does."""
    ids = WIDE.config().ids
    params: dict[str, Any] = {"temperature": TEMPERATURE, "top_k": TOP_K, "ignore_eos": True}
    written = await client.post(
        "/generate", json={"input_ids": _prompt(number), "sampling_params": {**params, "max_new_tokens": text}}
    )
    written.raise_for_status()
    prompt = [*_prompt(number), *written.json()["output_ids"], ids.eot, ids.assistant, ids.audio]
    params["custom_params"] = StageParams(audio=True, min_frames=frames + 1, cfg=SCALE).model_dump()
    spoken = await client.post(
        "/generate", json={"input_ids": prompt, "sampling_params": {**params, "max_new_tokens": frames}}
    )
    spoken.raise_for_status()
    assert len(spoken.json()["meta_info"]["frames"]) == frames


async def _serve(server: ServerProcess, numbers: range, text: int, frames: int) -> float:
    """Return the seconds of processor time that the server takes."""
    async with httpx.AsyncClient(base_url=server.url, timeout=3600, trust_env=False) as client:
        begin = processor.seconds(server)
        await asyncio.gather(*(_answer(client, number, text, frames) for number in numbers))
        return processor.seconds(server) - begin


def _loop(fork: Fork, numbers: range, text: int, frames: int) -> float:
    """Return the seconds of processor time that the fork's algorithm takes."""
    begin = time.process_time()
    spoken = fork.answers([_prompt(number) for number in numbers], text, frames, SCALE)
    seconds = time.process_time() - begin
    assert all(len(answer) == frames for answer in spoken)
    return seconds


def _draw(table: Sequence[dict[str, Any]], shown: str, file: Path) -> None:
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    bars = axes.bar([str(row["answers"]) for row in table], [row["server_by_fork"] for row in table], 0.5)
    axes.bar_label(bars, fmt="%.2f")
    axes.axhline(1, color="grey", linestyle=":", label="the fork's algorithm")
    axes.axhline(MUST_HOLD, color="black", label="at most")
    axes.set(xlabel="concurrent guided answers", ylabel="server, by the fork's algorithm", ylim=(0, 1.1))
    axes.legend(fontsize=8)
    figure.suptitle(shown, fontsize=9)
    figure.savefig(file, dpi=120)


def main() -> None:
    """Measure, print a table, and write it with a description of the machine, and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--answers",
        type=int,
        nargs="+",
        default=[1, 4, 16],
        help="numbers of concurrent answers to measure (default: 1 4 16)",
    )
    parser.add_argument("--text", type=int, default=50, help="text tokens per answer (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=150, help="frames per answer (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of measurement (default: %(default)s)")
    parser.add_argument(
        "--model", type=Path, default=Path(".checkpoints/step-cost"), help="checkpoint directory; built if missing"
    )
    parser.add_argument("--output", type=Path, help="JSON file for the figures; a PNG is written next to it")
    args = parser.parse_args()
    model = built(args.model, WIDE)
    table = []
    torch.set_num_threads(1)
    options = ["--max-total-tokens", "16384"]
    core = processor.one_core()
    with running(model, model / "server.log", options, environment=processor.ONE_THREAD, cores=core) as server:
        os.sched_setaffinity(0, core)  # the same core: either the server or the loop works
        fork = Fork(model)
        _loop(fork, range(1), 2, 2)
        asyncio.run(_serve(server, range(1), 2, 2))
        number = 0
        for count in args.answers:
            seconds: dict[str, list[float]] = {"server": [], "fork": []}
            for _ in range(args.rounds):
                numbers = range(number, number := number + count)
                seconds["fork"].append(_loop(fork, numbers, args.text, args.frames))
                seconds["server"].append(asyncio.run(_serve(server, numbers, args.text, args.frames)))
            ratios = [
                server_seconds / fork_seconds
                for server_seconds, fork_seconds in zip(seconds["server"], seconds["fork"], strict=True)
            ]
            row = {
                "answers": count,
                "server_s": round(statistics.median(seconds["server"]), 2),
                "fork_s": round(statistics.median(seconds["fork"]), 2),
                "server_by_fork": round(statistics.median(ratios), 3),
            }
            table.append(row)
            print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    if args.output:
        machine = record(args.output, {"text": args.text, "frames": args.frames, "table": table})
        of = f"{args.text} tokens of text and {args.frames} guided frames, 8 layers, hidden 512"
        _draw(table, title(of, machine), args.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
