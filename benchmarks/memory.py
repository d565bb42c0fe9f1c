"""Check whether a server's memory grows with the number of requests, after every 200 of 2,000 mixed requests.

    python -m benchmarks.memory --output benchmarks/results/memory.json

The answers are texts, spoken, guided, or about clips, complete and streamed, sixteen at a time, all with different
prompts. The measure is the proportional set size of the server's processes, including the codec process, while it is
idle.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import soundfile
from matplotlib.figure import Figure

from benchmarks import processor
from benchmarks.checkpoints import SMALL, built
from benchmarks.machine import record, title
from sglang_speechlm.process import ServerProcess, running

RATE = 16000
AT_ONCE = 16
MIB = 1 << 20
MAY_GROW = 1.05
"""Maximum final memory, relative to the first measurement."""


def _clip(number: int) -> dict[str, Any]:
    """Return a content part with a second of noise, different for each number."""
    file = io.BytesIO()
    samples = np.random.default_rng(number).normal(scale=0.1, size=RATE)
    soundfile.write(file, samples, RATE, format="WAV", subtype="PCM_16")
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(file.getvalue()).decode(), "format": "wav"}}


def _body(number: int) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": f"Question number {number}, if you please."}]
    if number % 3 == 0:
        content.insert(0, _clip(number))
    body: dict[str, Any] = {"messages": [{"role": "user", "content": content}], "max_tokens": 90}
    if number % 4:
        body["speechlm"] = {
            "mode": "text_audio",
            "text_max_tokens": 20,
            "audio_max_frames": 50,
            "cfg": 2.0 if number % 4 == 2 else 1.0,
        }
    return {**body, "stream": number % 2 == 1}


async def _ask(url: str, first: int, last: int) -> None:
    """Send requests ``first`` to ``last`` (exclusive)."""
    numbers = iter(range(first, last))
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as client:

        async def one_by_one() -> None:
            for number in numbers:
                response = await client.post("/v1/chat/completions", json=_body(number))
                response.raise_for_status()
                assert not response.text.startswith('data: {"error'), response.text

        await asyncio.gather(*(one_by_one() for _ in range(AT_ONCE)))


def _mebibytes(server: ServerProcess) -> dict[str, float]:
    """Return the memory of each of the server's processes, and of all together."""
    root = psutil.Process(server.process.pid)
    sizes: dict[str, float] = {}
    for process in (root, *root.children(recursive=True)):
        name = process.name() if "codec" not in " ".join(process.cmdline()) else "codec"
        sizes[name] = sizes.get(name, 0) + process.memory_full_info().pss / MIB
    return {"all": round(sum(sizes.values()), 1), **{name: round(size, 1) for name, size in sizes.items()}}


def _draw(table: Sequence[dict[str, float]], shown: str, file: Path) -> None:
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    answered = [row["requests"] for row in table]
    for name in list(table[0])[1:]:
        style = "ko-" if name == "all" else "-"
        axes.plot(answered, [row.get(name, 0) for row in table], style, label=name.removeprefix("sglang::"))
    axes.axhline(MAY_GROW * table[0]["all"], color="grey", linestyle=":", label=f"{MAY_GROW:g} times the first")
    axes.set(xlabel="requests answered", ylabel="MiB", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=3, loc="lower center")
    figure.suptitle(shown, fontsize=9)
    figure.savefig(file, dpi=120)


def main() -> None:
    """Measure, print a table, and write it with a description of the machine, and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000, help="total number of requests (default: %(default)s)")
    parser.add_argument(
        "--every", type=int, default=200, help="requests between two measurements (default: %(default)s)"
    )
    parser.add_argument(
        "--model", type=Path, default=Path(".checkpoints/serving"), help="checkpoint directory; built if missing"
    )
    parser.add_argument("--output", type=Path, help="JSON file for the figures; a PNG is written next to it")
    args = parser.parse_args()
    model = built(args.model, SMALL)
    options = ["--max-total-tokens", "32768"]
    table = []
    with running(model, model / "server.log", options, environment=processor.ONE_THREAD) as server:
        for first in range(0, args.requests, args.every):
            asyncio.run(_ask(server.url, first, first + args.every))
            table.append({"requests": first + args.every, **_mebibytes(server)})
            print(", ".join(f"{name} {value:g}" for name, value in table[-1].items()), flush=True)
    ratio = round(table[-1]["all"] / table[0]["all"], 4)
    print(f"memory after {table[-1]['requests']} requests, relative to {table[0]['requests']}: {ratio}")
    if args.output:
        machine = record(args.output, {"table": table, "ratio": ratio})
        _draw(table, title("mixed requests, sixteen concurrent", machine), args.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
