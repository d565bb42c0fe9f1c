"""Killed and stopped parts under load."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import psutil
from server.process import wait_for

from sglang_speechlm.process import ExitStatus

from .ledger import Ledger
from .target import CHAT, Target

_ANSWERED_SECONDS = 30.0
_NOTICED_SECONDS = 10.0
_RECOVERED_SECONDS = 90.0
_SPARE_SECONDS = 10.0
"""Additional time for a busy machine."""
RESTARTED_PARTS = ("codec",)
"""Parts that a single server can restart; without any other it ends, as documented."""


def deaths(target: Target, ledger: Ledger, number: signal.Signals, parts: Sequence[str]) -> None:
    """Kill or stop each part in turn: requests are answered or fail with an error, and the target recovers."""
    area = f"{target.name}: parts killed and stopped"
    size = 2 if target.is_fleet else 1
    for name in parts:
        what = f"{name}, {number.name}"
        if not wait_for(lambda: target.healthy_workers() == size and target.answers(), _RECOVERED_SECONDS):
            ledger.check(area, False, f"{what}: the target is not healthy before")
            return
        with _traffic(target) as traffic:
            time.sleep(2)
            part = target.parts().get(name)
            if part is None:
                ledger.check(area, False, f"{what}: missing in a healthy target; {target.server.output()[-150:]!r}")
                continue
            started = time.monotonic()
            _signal(part, number)
            if target.is_fleet and name in ("http process", "scheduler", "detokenizer", "keeper"):
                noticed = wait_for(lambda: target.healthy_workers() < size, _NOTICED_SECONDS + _SPARE_SECONDS)
                ledger.check(area, noticed, f"{what}: /readiness says {size} after {_NOTICED_SECONDS:g} s")
            time.sleep(1)
        late = [kind for kind, seconds in traffic if seconds > _ANSWERED_SECONDS + _SPARE_SECONDS]
        lost = [kind for kind, _ in traffic if kind.startswith("lost")]
        waited = f"{len(late)} of {len(traffic)} requests waited for more than {_ANSWERED_SECONDS:g} s"
        ledger.check(area, not late, f"{what}: {waited}")
        ledger.check(area, not lost, f"{what}: {lost[:2]} of {len(traffic)} requests")
        has_recovered = wait_for(
            lambda: target.healthy_workers() == size and target.answers() and _speaks(target),
            max(1.0, started + _RECOVERED_SECONDS + _SPARE_SECONDS - time.monotonic()),
        )
        ledger.check(area, has_recovered, f"{what}: not recovered after {_RECOVERED_SECONDS:g} s")
        with contextlib.suppress(psutil.Error):
            part.kill()


def front_hangs(target: Target, ledger: Ledger) -> None:
    """Stop a fleet's front: within 30 s its launcher ends with the documented status and leaves nothing behind."""
    area = f"{target.name}: front stopped"
    processes = target.processes()
    _signal(processes[0].children()[0], signal.SIGSTOP)
    ended = wait_for(lambda: target.server.process.poll() is not None, _ANSWERED_SECONDS + _SPARE_SECONDS)
    ledger.check(area, ended, f"the launcher still runs after {_ANSWERED_SECONDS:g} s")
    status = target.server.process.poll()
    ledger.check(area, status == ExitStatus.PART_DIED, f"the launcher ended with {status}")
    _, alive = psutil.wait_procs(processes, _NOTICED_SECONDS)
    ledger.check(area, not alive, f"{len(alive)} processes are left behind")


def _signal(part: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        part.send_signal(number)


def _speaks(target: Target) -> bool:
    body = {**_SPOKEN, "max_tokens": 20}
    with contextlib.suppress(httpx.HTTPError), target.client(seconds=30) as client:
        return client.post(CHAT, json=body).status_code == 200
    return False


_SPOKEN = {
    "messages": [{"role": "user", "content": "Hello."}],
    "max_tokens": 400,
    "speechlm": {"mode": "text_audio", "text": "Hello.", "audio_min_frames": 60},
}
_WRITTEN = {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 60}


@contextlib.contextmanager
def _traffic(target: Target) -> Iterator[list[tuple[str, float]]]:
    """Send requests of four kinds in four threads, one after the other, until the block ends.

    Yields:
        The outcome of each request and its duration in seconds.
    """
    outcomes: list[tuple[str, float]] = []
    over = threading.Event()

    def send_requests(body: dict[str, object]) -> None:
        with target.client(seconds=2 * _ANSWERED_SECONDS) as client:
            while not over.is_set():
                started = time.monotonic()
                outcome = _outcome(client, body)
                outcomes.append((outcome, time.monotonic() - started))
                if outcome != "answered":
                    over.wait(0.5)

    bodies = [_SPOKEN, _WRITTEN, {**_SPOKEN, "stream": True}, {**_WRITTEN, "stream": True}]
    with ThreadPoolExecutor(len(bodies)) as threads:
        futures: list[Future[None]] = [threads.submit(send_requests, body) for body in bodies]
        try:
            yield outcomes
        finally:
            over.set()
            for future in futures:
                future.result()


def _outcome(client: httpx.Client, body: dict[str, object]) -> str:
    """Return ``answered``, ``failed`` if there is an error message, or ``lost`` with the reason."""
    try:
        response = client.post(CHAT, json=body)
    except httpx.HTTPError as error:
        return f"lost: {type(error).__name__}"
    if response.status_code in (502, 503, 504):
        return "failed" if '"message"' in response.text else f"lost: {response.status_code} {response.text[:80]!r}"
    if response.status_code != 200:
        return f"lost: {response.status_code} {response.text[:80]!r}"
    if '"error"' in response.text:
        return "failed"
    if body.get("stream") and not response.text.endswith("data: [DONE]\n\n"):
        return f"lost: a stream that ends with {response.text[-60:]!r}"
    return "answered"
