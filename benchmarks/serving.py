"""The experience of listeners to streamed answers, by the number of concurrent listeners.

    python -m benchmarks.serving --output benchmarks/results/serving.json

Every listener requests an answer, reads it as it arrives, and requests the next one, so that the number of running
answers is constant. For each answer, it measures the time to its first text, from the end of its text to its first
sound, and between pieces of its sound, and whether a player that starts with the first piece would ever have had to
wait. The listeners share the machine with the server: a running one with --url, else a small one that is started.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from matplotlib.figure import Figure

from benchmarks.checkpoints import SMALL, built
from benchmarks.machine import record, title
from benchmarks.playback import Playback, play
from sglang_speechlm.process import running

KEPT_UP = 0.99
"""Share of streams that must never be late for the server to keep up with a concurrency."""
LATE = 0.02
"""Seconds of a player's own buffer: one frame."""
COLUMNS = ("listeners", "first_text_p50", "first_audio_p50", "first_audio_p99", "gap_p99", "real_time_factor_p50",
           "audio_seconds_per_second", "never_late")  # fmt: skip


def _body(number: int, frames: int, cfg: float) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": f"Tell story number {number}."}],
        "speechlm": {
            "mode": "text_audio",
            "text_max_tokens": 24,
            "audio_min_frames": frames,
            "audio_max_frames": frames,
            "cfg": cfg,
            "seed": number,
        },
    }


async def listen(url: str, listeners: int, answers: int, frames: int, cfg: float) -> tuple[list[Playback], float]:
    """Return the playbacks of ``answers`` answers to each of ``listeners``, and the seconds that all took."""
    limits = httpx.Limits(max_connections=listeners)
    async with httpx.AsyncClient(base_url=url, timeout=3600, limits=limits, trust_env=False) as client:

        async def listener(index: int) -> list[Playback]:
            return [await play(client, _body(index * answers + turn, frames, cfg)) for turn in range(answers)]

        begin = time.monotonic()
        playbacks = await asyncio.gather(*(listener(index) for index in range(listeners)))
        return [playback for listener in playbacks for playback in listener], time.monotonic() - begin


def _percentiles(name: str, values: Sequence[float]) -> dict[str, float]:
    return {f"{name}_p{share}": round(float(np.percentile(values, share)), 4) for share in (50, 99)}


def summarize(listeners: int, playbacks: Sequence[Playback], seconds: float) -> dict[str, float]:
    """Return a row of the table: times in seconds, and the share of streams that were never late."""
    return {
        "listeners": listeners,
        "answers": len(playbacks),
        **_percentiles("first_text", [playback.first_text for playback in playbacks]),
        **_percentiles("first_audio", [playback.first_audio for playback in playbacks]),
        **_percentiles("gap", [gap for playback in playbacks for gap in playback.gaps]),
        **_percentiles("real_time_factor", [playback.real_time_factor for playback in playbacks]),
        "audio_seconds_per_second": round(sum(playback.audio_seconds for playback in playbacks) / seconds, 2),
        "answers_per_second": round(len(playbacks) / seconds, 3),
        "never_late": round(float(np.mean([playback.lateness <= LATE for playback in playbacks])), 4),
    }


def _draw(table: Sequence[dict[str, float]], shown: str, file: Path) -> None:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    latency, rate = figure.subplots(1, 2)
    listeners = [row["listeners"] for row in table]
    for name, line, label in (
        ("first_audio_p99", "o--", "end of text to first sound, p99"),
        ("first_audio_p50", "o-", "the same, p50"),
        ("first_text_p50", "s-", "request to first text, p50"),
    ):
        latency.plot(listeners, [1000 * row[name] for row in table], line, label=label)
    latency.set(xlabel="concurrent listeners", ylabel="ms", ylim=(0, None))
    rate.plot(listeners, [row["audio_seconds_per_second"] for row in table], "o-", label="seconds of sound per second")
    rate.plot(listeners, listeners, ":", color="grey", label="real time for all")
    rate.set(xlabel="concurrent listeners", ylim=(0, None))
    for axes in (latency, rate):
        axes.set_xscale("log", base=2)
        axes.set_xticks(listeners, [f"{count:g}" for count in listeners])
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(shown, fontsize=10)
    figure.savefig(file, dpi=120)


@contextlib.contextmanager
def _server(url: str | None, model: Path) -> Iterator[str]:
    if url is not None:
        yield url
        return
    environment = {"OMP_NUM_THREADS": "1"}
    options = ["--max-total-tokens", "65536"]
    with running(built(model, SMALL), model / "server.log", options, environment=environment) as server:
        yield server.url


def main() -> None:
    """Measure, print a table, and write it with a description of the machine, and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--listeners", type=int, nargs="+", default=[1, 4, 16], help="numbers of concurrent listeners (default: 1 4 16)"
    )
    parser.add_argument("--answers", type=int, default=8, help="answers per listener (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=250, help="frames per answer (default: %(default)s)")
    parser.add_argument("--cfg", type=float, default=1.0, help="guidance scale (default: %(default)s)")
    parser.add_argument("--url", help="URL of a running server (default: start a small one)")
    parser.add_argument(
        "--model", type=Path, default=Path(".checkpoints/serving"), help="checkpoint directory; built if missing"
    )
    parser.add_argument("--output", type=Path, help="JSON file for the figures; a PNG is written next to it")
    args = parser.parse_args()
    table = []
    with _server(args.url, args.model) as url:
        asyncio.run(listen(url, 1, 2, args.frames, args.cfg))
        for listeners in args.listeners:
            playbacks, seconds = asyncio.run(listen(url, listeners, args.answers, args.frames, args.cfg))
            table.append(summarize(listeners, playbacks, seconds))
            print(", ".join(f"{name} {table[-1][name]:g}" for name in COLUMNS), flush=True)
    kept_up = [int(row["listeners"]) for row in table if row["never_late"] >= KEPT_UP]
    print(f"maximum listeners of whom {KEPT_UP:.0%} never waited: {max(kept_up, default=0)}")
    if args.output:
        figures = {"frames": args.frames, "cfg": args.cfg, "table": table, "kept_up_with": max(kept_up, default=0)}
        machine = record(args.output, figures)
        _draw(table, title(f"{args.frames} frames, guidance {args.cfg:g}", machine), args.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
