"""``make soak MINUTES=10``: send requests of all kinds to two workers while random parts of them are killed.

Each request is answered, fails with a clear error, or counts as lost; the exit status is 0 if none was lost and the
fleet was healthy in the end, stopped with the right status and left nothing behind.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from server import BY_NAME, clip, wait_for, wav
from server.fleet import Fleet, fleet_of

from sglang_speechlm.checkpoint import CheckpointSpec, build_checkpoint
from sglang_speechlm.process import ExitStatus

CHAT = "/v1/chat/completions"
ANSWER_SECONDS = 300
RECOVERED_SECONDS = 240
CLIENTS = 6
LAST_EVENTS = ("data: [DONE]", 'data: {"type":"speech.audio.done"', 'data: {"type":"transcript.text.done"')

PreparedRequest = tuple[str, dict[str, Any]]
"""The path and the keyword arguments for httpx."""


def _chat(name: str, **more: Any) -> PreparedRequest:
    return CHAT, {"json": {**BY_NAME[name].body(), **more}}


def _transcription(**fields: str) -> PreparedRequest:
    file = base64.b64decode(wav(clip(21, 1.5)))
    return "/v1/audio/transcriptions", {"files": {"file": ("clip.wav", file)}, "data": {"model": "speechlm", **fields}}


def _speech(**more: Any) -> PreparedRequest:
    body = {"model": "speechlm", "input": "One, two, three.", "voice": "alloy", "response_format": "wav", **more}
    return "/v1/audio/speech", {"json": body}


KINDS: dict[str, PreparedRequest] = {
    "text": _chat("text"),
    "spoken": _chat("spoken"),
    "guided": _chat("guided"),
    "audio question": _chat("audio question"),
    "spoken answer to audio": _chat("spoken answer to audio"),
    "text, streamed": _chat("history", stream=True),
    "spoken, streamed": _chat("given text", stream=True),
    "long, streamed": _chat("audio_min_frames", stream=True),
    "guided, streamed": _chat("guided, given text", stream=True),
    "speech": _speech(),
    "speech, streamed": _speech(stream_format="sse"),
    "transcription": _transcription(),
    "transcription, streamed": _transcription(stream="true"),
}

PARTS: dict[str, Callable[[Fleet, str], psutil.Process]] = {
    "worker": lambda fleet, url: fleet.keeper(url),
    "http process": lambda fleet, url: fleet.keeper(url).children()[0],
    "scheduler": lambda fleet, url: fleet.part(url, "sglang::scheduler"),
    "codec": lambda fleet, url: fleet.part(url, "sglang_speechlm.codec.worker.main"),
    "router": lambda fleet, _: fleet.router(),
}


@dataclass
class Tally:
    """The outcomes of the requests.

    Attributes:
        sent, answered, failed, lost: requests by kind.
        errors: number of failed requests by error.
        losses: descriptions of lost requests.
    """

    sent: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    losses: list[str] = field(default_factory=list)

    def send(self, http: httpx.Client, kind: str) -> bool:
        """Send a request and return whether it was answered."""
        self.sent[kind] += 1
        path, request = KINDS[kind]
        try:
            response = http.post(path, **request)
            error = _error_of(response)
        except (httpx.HTTPError, ValueError, KeyError, AssertionError) as problem:
            self.lost[kind] += 1
            self.losses.append(f"{time.strftime('%H:%M:%S')} {kind}: {type(problem).__name__}: {problem}"[:400])
            return False
        if error is None:
            self.answered[kind] += 1
            return True
        self.failed[kind] += 1
        self.errors[error] += 1
        return False

    def table(self) -> str:
        """Return the counts, one line per kind."""
        columns = (self.sent, self.answered, self.failed, self.lost)
        rows = [(kind, *(column[kind] for column in columns)) for kind in KINDS]
        rows.append(("all", *(column.total() for column in columns)))
        lines = [f"{'kind':<26}{'sent':>7}{'answered':>10}{'clear error':>13}{'lost':>6}"]
        lines += [
            f"{kind:<26}{sent:>7}{answered:>10}{failed:>13}{lost:>6}" for kind, sent, answered, failed, lost in rows
        ]
        return "\n".join(lines)


def _error_of(response: httpx.Response) -> str | None:
    """Return the error of a response, or None for a complete answer.

    Raises:
        AssertionError, ValueError, KeyError: if the response is neither.
    """
    kind = response.headers["content-type"].partition(";")[0]
    if response.status_code != 200:
        error = response.json()["error"]
        assert response.status_code in (502, 503, 504), f"{response.status_code}: {error}"
        return f"{response.status_code} {error['message']}"
    if kind == "text/event-stream":
        events = [event for event in response.text.split("\n\n") if event]
        for event in events:
            data = event.removeprefix("data: ")
            if data != "[DONE]" and "error" in (event_data := json.loads(data)):
                assert event_data["error"]["type"] == "server_error", event_data
                return f"in the stream: {event_data['error']['message']}"
        assert events, "an empty stream"
        assert events[-1].startswith(LAST_EVENTS), f"a stream that ends with {events[-1][:100]}"
    elif kind == "application/json":
        assert response.json()
    else:
        assert response.content[:4] == b"RIFF", response.content[:20]
    return None


def _traffic(fleet: Fleet, tally: Tally, over: threading.Event, seed: int) -> None:
    """Send random requests one after the other until ``over`` is set."""
    generator = random.Random(seed)
    with httpx.Client(base_url=fleet.server.url, timeout=ANSWER_SECONDS, trust_env=False) as http:
        while not over.is_set():
            if not tally.send(http, generator.choice(list(KINDS))):
                over.wait(0.5)


def _kill_parts(fleet: Fleet, seconds: float, generator: random.Random) -> tuple[Counter[str], float]:
    """Kill a part whenever the fleet is healthy; return the killed parts and the longest time to recover."""
    killed: Counter[str] = Counter()
    longest = 0.0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(generator.uniform(2, 8))
        name = generator.choice(list(PARTS))
        with contextlib.suppress(psutil.Error, IndexError, StopIteration):
            part = PARTS[name](fleet, generator.choice(fleet.workers))
            part.kill()
            killed[name] += 1
            print(f"{time.strftime('%H:%M:%S')} killed: {name} ({part.pid})", flush=True)
        started = time.monotonic()
        time.sleep(1.5)  # until the front has noticed
        if not wait_for(fleet.is_healthy, RECOVERED_SECONDS):
            raise TimeoutError(f"not recovered {RECOVERED_SECONDS} s after the {name} was killed")
        longest = max(longest, time.monotonic() - started)
    return killed, longest


def soak(minutes: float, seed: int) -> int:
    """Run the soak test and return the exit status."""
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    checkpoint = build_checkpoint(folder / "small", spec=CheckpointSpec(seed=0))
    tally = Tally()
    over = threading.Event()
    with fleet_of(2, checkpoint, folder / "log") as fleet:
        print(f"two workers behind {fleet.server.url}, log {folder / 'log'}, seed {seed}", flush=True)
        clients = [threading.Thread(target=_traffic, args=(fleet, tally, over, seed + i)) for i in range(CLIENTS)]
        for client in clients:
            client.start()
        try:
            killed, longest = _kill_parts(fleet, minutes * 60, random.Random(seed))
        finally:
            over.set()
            for client in clients:
                client.join()
        last = Tally()
        with httpx.Client(base_url=fleet.server.url, timeout=ANSWER_SECONDS, trust_env=False) as http:
            unanswered = [kind for kind in KINDS if not last.send(http, kind)]
        processes = fleet.processes()
        status = fleet.server.stop()
        _, left = psutil.wait_procs(processes, timeout=30)
    print(f"\n{tally.table()}\n\nclear errors:")
    for error, count in tally.errors.most_common():
        print(f"  {count:>5}  {error}")
    print(f"killed: {dict(killed)}; recovered after at most {longest:.0f} s")
    for loss in [*tally.losses, *last.losses]:
        print(f"lost: {loss}")
    print(f"in the end unanswered: {unanswered or 'none'}; exit status {status}; processes left: {len(left)}")
    return int(bool(tally.lost.total() or unanswered or left or status != ExitStatus.STOPPED))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parsed = parser.parse_args(arguments)
    return soak(parsed.minutes, parsed.seed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
