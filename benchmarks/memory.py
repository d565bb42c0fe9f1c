"""Whether a server's memory grows with what it has answered: after 200 mixed requests, and after 2,000.

    python -m benchmarks.memory --output benchmarks/results/memory.json

Texts, spoken and guided answers, answers to clips, whole and streamed, sixteen at a time, all of different prompts.
What is counted is the proportional set size of the server's processes, the codec's included.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import soundfile

from benchmarks.checkpoints import SMALL, built
from benchmarks.machine import record
from sglang_speechlm.worker import Worker, running

RATE = 16000
AT_ONCE = 16
MIB = 1 << 20


def _clip(number: int) -> dict[str, Any]:
    """A content part: a second of noise, another one for each number."""
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
    """Requests ``first`` to ``last``, the latter excluded."""
    numbers = iter(range(first, last))
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as client:

        async def one_by_one() -> None:
            for number in numbers:
                response = await client.post("/v1/chat/completions", json=_body(number))
                response.raise_for_status()
                assert not response.text.startswith('data: {"error'), response.text

        await asyncio.gather(*(one_by_one() for _ in range(AT_ONCE)))


def _mebibytes(worker: Worker) -> dict[str, float]:
    """What each of the server's processes holds, and all of them."""
    server = psutil.Process(worker.process.pid)
    sizes: dict[str, float] = {}
    for process in (server, *server.children(recursive=True)):
        name = process.name() if "codec" not in " ".join(process.cmdline()) else "codec"
        sizes[name] = sizes.get(name, 0) + process.memory_full_info().pss / MIB
    return {"all": round(sum(sizes.values()), 1), **{name: round(size, 1) for name, size in sizes.items()}}


def main() -> None:
    """Measure, print, and write the figures with the machine that they are of."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--early", type=int, default=200, help="requests before the first look (default: %(default)s)")
    parser.add_argument("--late", type=int, default=2000, help="requests before the last look (default: %(default)s)")
    parser.add_argument("--model", type=Path, default=Path(".checkpoints/serving"), help="built if it is not there")
    parser.add_argument("--output", type=Path, help="where to write the figures as JSON")
    args = parser.parse_args()
    model = built(args.model, SMALL)
    options = ["--max-total-tokens", "32768"]
    with running(model, model / "server.log", options, environment={"OMP_NUM_THREADS": "1"}) as worker:
        asyncio.run(_ask(worker.url, 0, args.early))
        early = _mebibytes(worker)
        asyncio.run(_ask(worker.url, args.early, args.late))
        late = _mebibytes(worker)
    figures = {
        f"mib_after_{args.early}": early,
        f"mib_after_{args.late}": late,
        "ratio": round(late["all"] / early["all"], 4),
    }
    print(json.dumps(figures, indent=2))
    if args.output:
        record(args.output, figures)


if __name__ == "__main__":
    main()
