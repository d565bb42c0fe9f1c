"""Decoding never waits for the codec: the speed of a text while answers are turned into sound, relative to it alone.

    python -m benchmarks.codec_independence --output benchmarks/results/codec_independence.json

A small language model with the full-size Xcodec (161 M parameters, random) generates its frames within seconds; the
codec then needs many times longer for their sound. One text is streamed before that, and while only the codec works on
the answers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.checkpoints import FULL_CODEC, built
from benchmarks.machine import record
from sglang_speechlm.process import running


async def _text_rate(client: httpx.AsyncClient, tokens: int) -> float:
    """Return the tokens per second of one text."""
    body = {
        "input_ids": [1, 5, 7, *range(300, 330), 2, 6, 7],
        "sampling_params": {"temperature": 0.8, "top_k": 20, "max_new_tokens": tokens, "ignore_eos": True},
    }
    begin = time.perf_counter()
    (await client.post("/generate", json=body, timeout=600)).raise_for_status()
    return tokens / (time.perf_counter() - begin)


async def _answer(client: httpx.AsyncClient, number: int, frames: int) -> None:
    body = {
        "messages": [{"role": "user", "content": f"Answer number {number}."}],
        "speechlm": {"mode": "text_audio", "text": "Yes.", "audio_min_frames": frames, "audio_max_frames": frames},
    }
    (await client.post("/v1/chat/completions", json=body, timeout=600)).raise_for_status()


async def _frames_are_spoken(client: httpx.AsyncClient) -> None:
    """Wait until the scheduler is idle and only the codec is working."""
    await asyncio.sleep(1)
    while True:
        loads = (await client.get("/v1/loads")).json()["loads"]
        if not any(load["num_running_reqs"] + load["num_waiting_reqs"] for load in loads):
            return
        await asyncio.sleep(0.1)


async def _measure(url: str, answers: int, frames: int, tokens: int, rounds: int) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        await _text_rate(client, tokens)
        rates_alone = [await _text_rate(client, tokens) for _ in range(rounds)]
        speaking = [asyncio.create_task(_answer(client, number, frames)) for number in range(answers)]
        await _frames_are_spoken(client)
        rates_while_decoding = []
        while not all(task.done() for task in speaking):
            rates_while_decoding.append(await _text_rate(client, tokens))
        await asyncio.gather(*speaking)
        afterwards = [await _text_rate(client, tokens) for _ in range(rounds)]
    return {
        "text_tokens_per_s_alone": round(statistics.median(rates_alone + afterwards), 1),
        "text_tokens_per_s_while_decoding": round(
            statistics.median(rates_while_decoding[:-1] or rates_while_decoding), 1
        ),
        "rate_kept": round(
            statistics.median(rates_while_decoding[:-1] or rates_while_decoding)
            / statistics.median(rates_alone + afterwards),
            3,
        ),
        "texts_meanwhile": len(rates_while_decoding),
    }


def main() -> None:
    """Measure, print the figures, and write them with a description of the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=8, help="concurrent answers (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=400, help="frames per answer (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=200, help="tokens per measured text (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="texts measured before and after (default: %(default)s)")
    parser.add_argument(
        "--model", type=Path, default=Path(".checkpoints/full-codec"), help="checkpoint directory; built if missing"
    )
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    environment = {"OMP_NUM_THREADS": "1"}
    options = ["--max-total-tokens", "16384"]
    with running(built(args.model, FULL_CODEC), args.model / "server.log", options, environment=environment) as server:
        figures = asyncio.run(_measure(server.url, args.answers, args.frames, args.tokens, args.rounds))
    print(json.dumps(figures, indent=2))
    if args.output:
        record(args.output, figures)


if __name__ == "__main__":
    main()
