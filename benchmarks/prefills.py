"""The share of prefills in a scheduler's steps while many listen, and what decode steps between them change.

    python -m benchmarks.prefills --output benchmarks/results/prefills.json

The processes are the real ones; the model is as small as the format allows. Its steps are slowed down until the other
processes keep up, as on a GPU whose small steps all take the same time, with cores for each process. Every listener
requests one answer after the other, each of a text stage and an audio stage as in the program of an answer, but from
``/generate``, so that no codec slows them down. Their first answers have different lengths, so that
requests come evenly, as from listeners who began at any time. Prefills depend on how many requests begin per step: 128
listeners of 100 frames begin as many as 500 listeners of 10 s. The servers differ in SGLang's
``--prefill-decode-interval``; they run at the same time, and take turns to be measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks import processor
from benchmarks.checkpoints import TINIEST, built
from benchmarks.machine import record
from sglang_speechlm.process import ServerProcess, running
from sglang_speechlm.stage import StageParams

TEXT = 30
"""Ids of an answer's text."""
SOUND = 16
"""Frames that complete the first piece of sound, with the streams' delay; frames are sent as often."""
_DECODES_PER_LINE = 4
"""Decode steps between two lines about them in the log."""
_PACED = Path(__file__).with_name("paced")
_DECODES = re.compile(r"Decode batch, #running-req: (\d+)")


async def _events(url: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
    """Yield the events of a stream, read with as little work as possible.

    Raises:
        RuntimeError: if the server refuses the request or the stream breaks off.
    """
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=1 << 24)
    try:
        content = json.dumps(body | {"stream": True}).encode()
        head = f"POST /generate HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        line = b""
        while line != b"data: [DONE]\n":
            line = await reader.readline()
            if not line:
                raise RuntimeError("the answer broke off")
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])
    finally:
        writer.close()


async def _listen(url: str, number: int, frames: int, delays: list[tuple[float, float]]) -> None:
    """Listen to one answer after the other; note when each first sounds, and the seconds that it took."""
    ids, chance = TINIEST.config().ids, random.Random(number)
    length = chance.randint(1, frames)
    while True:
        sent = time.monotonic()
        words = [chance.randrange(300, 1000) for _ in range(30)]
        prompt = [ids.bos, ids.user, ids.text, *words, ids.eos, ids.assistant, ids.text]
        params: dict[str, Any] = {"max_new_tokens": TEXT, "ignore_eos": True, "stream_interval": TEXT}
        async with aclosing(_events(url, {"input_ids": prompt, "sampling_params": params})) as events:
            async for event in events:
                text = event["output_ids"]
        prompt += [*text, ids.assistant, ids.audio]
        stage = StageParams(audio=True, min_frames=length + 1).model_dump()
        params = {"max_new_tokens": length, "ignore_eos": True, "stream_interval": SOUND, "custom_params": stage}
        silent = True
        async with aclosing(_events(url, {"input_ids": prompt, "sampling_params": params})) as events:
            async for event in events:
                if silent and len(event["output_ids"]) >= SOUND:
                    silent = False
                    delays.append((time.monotonic(), time.monotonic() - sent))
        length = frames


async def _measure(server: ServerProcess, log: Path, args: argparse.Namespace) -> dict[str, float]:
    """Return the figures of one server while all listeners listen."""
    delays: list[tuple[float, float]] = []
    listeners = [
        asyncio.create_task(_listen(server.url, number, args.frames, delays)) for number in range(args.listeners)
    ]
    try:
        broken, _ = await asyncio.wait(listeners, timeout=args.step * args.ramp, return_when=asyncio.FIRST_EXCEPTION)
        begin, place = time.monotonic(), log.stat().st_size
        if not broken:
            broken, _ = await asyncio.wait(
                listeners, timeout=args.step * args.window, return_when=asyncio.FIRST_EXCEPTION
            )
        seconds, lines = time.monotonic() - begin, log.read_bytes()[place:].decode()
        for listener in broken:
            listener.result()
    finally:
        for listener in listeners:
            listener.cancel()
        await asyncio.wait(listeners)
    rows = [int(count) for count in _DECODES.findall(lines)]
    prefills, decodes = lines.count("Prefill batch"), _DECODES_PER_LINE * len(rows)
    to_sound = sorted(delay for sounded, delay in delays if sounded >= begin)
    return {
        "prefill_share": round(prefills / (prefills + decodes), 3),
        "ids_per_step": round(_DECODES_PER_LINE * sum(rows) / (prefills + decodes), 1),
        "step_s": round(seconds / (prefills + decodes), 3),
        "answers": len(to_sound),
        "steps_to_sound_p50": round(to_sound[len(to_sound) // 2] / args.step, 1),
        "steps_to_sound_p95": round(to_sound[int(0.95 * len(to_sound))] / args.step, 1),
    }


def main() -> None:
    """Measure and print figures, and write them with a description of the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--listeners", type=int, default=128, help="concurrent listeners (default: %(default)s)")
    add("--frames", type=int, default=100, help="frames per answer (default: %(default)s)")
    add("--intervals", type=int, nargs="+", default=[0, 4], help="decode steps between prefills (default: 0 4)")
    add("--least", type=int, default=64, help="running rows from which on they count (default: %(default)s)")
    add("--step", type=float, default=0.2, help="seconds per step (default: %(default)s)")
    add("--ramp", type=int, default=130, help="steps before a measurement (default: %(default)s)")
    add("--window", type=int, default=300, help="steps of a measurement (default: %(default)s)")
    add("--model", type=Path, default=Path(".checkpoints/streaming"), help="checkpoint directory; built if missing")
    add("--output", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    positions = args.listeners * (args.frames + 128)
    options = ["--max-total-tokens", f"{positions}", "--max-running-requests", f"{args.listeners}"]
    options += ["--decode-log-interval", f"{_DECODES_PER_LINE}", "--prefill-decode-interval-min-bs", f"{args.least}"]
    model = built(args.model, TINIEST)
    environment = {**processor.ONE_THREAD, "PYTHONPATH": str(_PACED), "STEP_SECONDS": f"{args.step}"}
    table = []
    with contextlib.ExitStack() as servers:
        started = []
        for interval in args.intervals:
            log = model / f"prefills{interval}.log"
            own = [*options, "--prefill-decode-interval", f"{interval}"]
            started.append((servers.enter_context(running(model, log, own, environment=environment)), log))
        for interval, (server, log) in zip(args.intervals, started, strict=True):
            row = {"interval": interval, **asyncio.run(_measure(server, log, args))}
            table.append(row)
            print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    if args.output:
        record(args.output, {"listeners": args.listeners, "frames": args.frames, "step_s": args.step, "table": table})


if __name__ == "__main__":
    main()
