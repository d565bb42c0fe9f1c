"""The cost of OpenAI's sample rate: the processor time of streamed sound at 24 kHz, relative to the codec's own rate.

    python -m benchmarks.resampling --output benchmarks/results/resampling.json

The model in the box speaks the same frames again and again, in turn at the codec's rate and at 24 kHz. It is so small
that resampling costs a larger share of its processor time than of any other model's.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import httpx
import psutil
from tqdm import tqdm

from benchmarks.machine import record
from benchmarks.processor import ONE_THREAD, seconds
from sglang_speechlm.demo import MODEL
from sglang_speechlm.process import ServerProcess, running

CODEC_RATE, OPENAI_RATE = 16_000, 24_000
_FRAMES_PER_SECOND = 50
_SAMPLE_BYTES = 2


def _stream(client: httpx.Client, frames: int, rate: int) -> None:
    """Read a stream of ``frames`` frames as it arrives."""
    body = {
        "input": "The green bird sits near the bridge.",
        "response_format": "pcm",
        "sample_rate": rate,
        "speechlm": {"cfg": 1.0, "seed": 1, "audio_min_frames": frames, "audio_max_frames": frames},
    }
    size = 0
    with client.stream("POST", "/v1/audio/speech", json=body) as response:
        response.raise_for_status()
        for piece in response.iter_bytes():
            size += len(piece)
    if abs(size / _SAMPLE_BYTES / rate - frames / _FRAMES_PER_SECOND) > 0.5:
        raise RuntimeError(f"{size} bytes for {frames} frames at {rate} Hz")


def _http_process(server: ServerProcess, port: int) -> psutil.Process:
    """Return the process of a server that listens at its port."""
    root = psutil.Process(server.process.pid)
    for process in (root, *root.children(recursive=True)):
        if any(connection.laddr.port == port for connection in process.net_connections("tcp")):
            return process
    raise RuntimeError(f"no process listens at port {port}")


def _measure(server: ServerProcess, frames: int, rounds: int) -> dict[str, Any]:
    http = _http_process(server, httpx.URL(server.url).port or 80)
    used: dict[str, dict[int, list[float]]] = {name: {CODEC_RATE: [], OPENAI_RATE: []} for name in ("all", "http")}
    with httpx.Client(base_url=server.url, timeout=None, trust_env=False) as client:
        _stream(client, frames, OPENAI_RATE)
        for number in tqdm(range(rounds), unit="round"):
            for rate in (CODEC_RATE, OPENAI_RATE) if number % 2 else (OPENAI_RATE, CODEC_RATE):
                before = seconds(server), sum(http.cpu_times()[:2])
                _stream(client, frames, rate)
                after = seconds(server), sum(http.cpu_times()[:2])
                for name, begin, end in zip(used, before, after, strict=True):
                    used[name][rate].append((end - begin) / (frames / _FRAMES_PER_SECOND))
    figures: dict[str, Any] = {"frames": frames, "rounds": rounds}
    for name, by_rate in used.items():
        own, resampled = (statistics.median(by_rate[rate]) for rate in (CODEC_RATE, OPENAI_RATE))
        figures[name] = {
            "seconds_per_second_of_sound_at_codec_rate": round(own, 4),
            "seconds_per_second_of_sound_at_24000_hz": round(resampled, 4),
            "more": round(resampled / own - 1, 4),
        }
    # Both differences are of the same work; the HTTP process, which resamples, has less of everything else in it.
    more = figures["http"]["seconds_per_second_of_sound_at_24000_hz"]
    more -= figures["http"]["seconds_per_second_of_sound_at_codec_rate"]
    figures["resampling_share"] = round(more / figures["all"]["seconds_per_second_of_sound_at_codec_rate"], 4)
    return figures


def main() -> None:
    """Measure, print the figures, and write them with a description of the machine."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resampling", description=__doc__)
    parser.add_argument("--frames", type=int, default=500, help="frames per stream (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=12, help="streams at each rate (default: %(default)s)")
    parser.add_argument(
        "--log", type=Path, default=Path(".checkpoints/resampling.log"), help="the server's log (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    options.log.parent.mkdir(parents=True, exist_ok=True)
    arguments = ("--max-total-tokens", "8192")
    with running(MODEL, options.log, arguments, environment=ONE_THREAD) as server:
        figures = _measure(server, options.frames, options.rounds)
    print(json.dumps(figures, indent=2))
    if options.output:
        record(options.output, figures)


if __name__ == "__main__":
    main()
