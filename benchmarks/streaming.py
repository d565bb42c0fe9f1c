"""The processor time of each process of a server for streams to many listeners, per 1,000 frames and text ids.

    python -m benchmarks.streaming --output benchmarks/results/streaming.json

The processes are the real ones; the model is as small as the format allows, so that its steps take almost no time.
Every listener requests a spoken answer (or a text) as a stream and reads it whole; the figures include the setup of its
request. With ``--tree``, servers from several source trees run at the same time and take turns in each round, so that
their figures can be compared.

A process with a core of its own passes on 1,000 frames in its processor time for them. In the HTTP process, that is
the time of its event loop: its other threads wait. A listener in real time hears 50 frames a second.

In rounds of turns, every listener requests several short answers of different lengths, one after the other. As many
requests begin per step as with many more listeners of long answers, and the server's log tells the share of steps that
were prefills, for which all other listeners wait.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from matplotlib.figure import Figure

from benchmarks import processor
from benchmarks.checkpoints import TINIEST, built
from benchmarks.machine import record, title
from sglang_speechlm.process import running

FRAME_RATE = 50
"""Frames per second of the released model's sound."""
TURNS = 8
_DECODES_PER_LINE = 4
"""Decode steps between two lines about them in the log."""
_UNITS = {"frames": "frames", "turns": "frames of short answers", "text": "text ids"}
SHOWN = ("loop", "http", "scheduler", "detokenizer", "codec")
_HERE = Path(__file__).resolve().parents[1]


def _body(kind: str, number: int, length: int) -> dict[str, Any]:
    body = {
        "messages": [{"role": "user", "content": f"Tell story number {number}."}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "seed": number,
    }
    if kind == "text":
        return body | {"modalities": ["text"], "max_tokens": length, "min_tokens": length}
    spoken = {"mode": "text_audio", "text": "Yes.", "audio_min_frames": length, "audio_max_frames": length}
    return body | {"speechlm": spoken}


async def _listen(url: str, kind: str, number: int, length: int) -> int:
    """Read one streamed answer with as little work as possible; return the number of its frames or text ids.

    Raises:
        RuntimeError: if the server refuses it or the stream breaks off.
    """
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    content = json.dumps(_body(kind, number, length)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    events = (await reader.read()).split(b"data: ")
    writer.close()
    if not events[-1].startswith(b"[DONE]"):
        raise RuntimeError(f"the answer broke off: {events[-1][-500:]!r}")
    usage = json.loads(events[-2][: events[-2].rindex(b"}") + 1])["usage"]
    spoken = usage["completion_tokens_details"]["audio_tokens"]
    return spoken if kind == "frames" else usage["completion_tokens"]


async def _turns(url: str, number: int, length: int) -> int:
    """Read several answers of ``length`` frames on average, one after the other; return the number of their frames."""
    lengths = (length // 2 + (7 * number + 11 * turn) % length for turn in range(TURNS))
    return sum([await _listen(url, "frames", number, frames) for frames in lengths])


async def _round(url: str, kind: str, listeners: int, length: int) -> tuple[int, float]:
    """Return the number of frames or text ids of all answers to the listeners, and the seconds that all took."""
    begin = time.monotonic()
    answers = (
        _turns(url, number, length) if kind == "turns" else _listen(url, kind, number, length)
        for number in range(listeners)
    )
    return sum(await asyncio.gather(*answers)), time.monotonic() - begin


def _prefill_share(log: str) -> float:
    """Return the share of prefills in the steps that a part of a server's log reports."""
    prefills, decodes = log.count("Prefill batch"), _DECODES_PER_LINE * log.count("Decode batch")
    return prefills / (prefills + decodes)


def _row(tree: str, kind: str, rounds: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return the medians over the rounds: milliseconds of each process per 1,000, and what they allow."""
    row: dict[str, Any] = {"tree": tree, "kind": kind}
    for name in SHOWN:
        row[f"{name}_ms"] = round(statistics.median(1e6 * costs[name] / costs["count"] for costs in rounds), 2)
    row["measured_per_s"] = round(statistics.median(costs["count"] / costs["seconds"] for costs in rounds))
    row["loop_per_s"] = round(1e6 / row["loop_ms"])
    row["prefill_share"] = round(statistics.median(costs["prefill_share"] for costs in rounds), 3)
    if kind != "text":
        row["loop_listeners"] = round(row["loop_per_s"] / FRAME_RATE)
    return row


def _draw(table: Sequence[dict[str, Any]], shown: str, file: Path) -> None:
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for axes, kind in zip(figure.subplots(1, 3), ("frames", "turns", "text"), strict=True):
        rows = [row for row in table if row["kind"] == kind]
        width = 0.8 / len(rows)
        for place, row in enumerate(rows):
            middle = [at - 0.4 + width * (place + 0.5) for at in range(len(SHOWN))]
            bars = axes.bar(middle, [row[f"{name}_ms"] for name in SHOWN], width, label=row["tree"])
            axes.bar_label(bars, fmt="%.0f", fontsize=7)
        axes.set_xticks(range(len(SHOWN)), SHOWN, fontsize=8)
        axes.set(ylabel=f"ms per 1,000 {_UNITS[kind]}")
        axes.legend(fontsize=8)
    figure.suptitle(shown, fontsize=9)
    figure.savefig(file, dpi=120)


def main() -> None:
    """Measure, print a table, and write it with a description of the machine, and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listeners", type=int, default=64, help="concurrent listeners (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=500, help="frames per answer (default: %(default)s)")
    parser.add_argument("--turn", type=int, default=32, help="mean frames per short answer (default: %(default)s)")
    parser.add_argument("--ids", type=int, default=200, help="text ids per answer (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of measurement (default: %(default)s)")
    parser.add_argument(
        "--tree", type=Path, action="append", metavar="DIR",
        help="source tree of a server; repeat it to compare several (default: this one)",
    )  # fmt: skip
    parser.add_argument(
        "--model", type=Path, default=Path(".checkpoints/streaming"), help="checkpoint directory; built if missing"
    )
    parser.add_argument("--output", type=Path, help="JSON file for the figures; a PNG is written next to it")
    args = parser.parse_args()
    lengths = {"frames": args.frames, "turns": args.turn, "text": args.ids}
    positions = args.listeners * (max(lengths.values()) + 64)
    options = ["--max-total-tokens", f"{positions}", "--max-running-requests", f"{args.listeners}"]
    options += ["--decode-log-interval", f"{_DECODES_PER_LINE}"]
    model = built(args.model, TINIEST)
    trees = [tree.resolve() for tree in args.tree or [_HERE]]
    costs: dict[tuple[int, str], list[dict[str, float]]] = {}
    with contextlib.ExitStack() as servers:
        started, logs = [], []
        for place, tree in enumerate(trees):
            environment = {**processor.ONE_THREAD, "PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"}
            logs.append(model / f"server{place}.log")
            started.append(servers.enter_context(running(model, logs[-1], options, environment=environment)))
        for number in range(1 + args.rounds):
            for kind, length in lengths.items():
                for place, server in enumerate(started):
                    begin = logs[place].stat().st_size
                    before = processor.seconds_by_part(server)
                    count, seconds = asyncio.run(_round(server.url, kind, args.listeners, length))
                    after = processor.seconds_by_part(server)
                    parts = {name: after[name] - before[name] for name in SHOWN}
                    parts["prefill_share"] = _prefill_share(logs[place].read_bytes()[begin:].decode())
                    if number:  # the first round warms up
                        costs.setdefault((place, kind), []).append({**parts, "count": count, "seconds": seconds})
    table = [_row(trees[place].name, kind, rounds) for (place, kind), rounds in costs.items()]
    for row in table:
        shares = ", ".join(f"{name} {row[f'{name}_ms']:.1f}" for name in SHOWN)
        print(f"{row['tree']}, {row['kind']}: ms per 1,000: {shares}; {row['measured_per_s']} per second", end="")
        print(f"; the loop alone: {row['loop_per_s']} per second, {row.get('loop_listeners', '-')} listeners", end="")
        print(f"; {100 * row['prefill_share']:.0f} % of the steps are prefills")
    if args.output:
        machine = record(args.output, {"listeners": args.listeners, "lengths": lengths, "table": table})
        _draw(table, title(f"streams to {args.listeners} listeners", machine), args.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
