"""``make attack``: try on running servers what outsiders might try; exit status 0 if everything holds.

Run as ``python -m attack`` with ``tests`` on the path.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sglang_speechlm.checkpoint import CheckpointSpec, build_checkpoint

from .bodies import heavy_bodies, odd_bodies, slow_bodies
from .clips import clip_urls, damaged_over_http, decode_damaged
from .deaths import RESTARTED_PARTS, deaths, front_hangs
from .doors import doors, framing, request_targets
from .ledger import Ledger
from .mixed import mixed_bodies
from .stalls import listening_sockets, stalled_connections
from .target import Target, target

_MEMORY_BYTES = 400 << 20
"""Maximum growth of a target during the attack: caches fill, and freed memory is not always returned."""
_TARGETS = {
    "single": (False, False),
    "single, keys": (False, True),
    "fleet": (True, False),
    "fleet, keys": (True, True),
}


@dataclass(frozen=True)
class Scale:
    """The sizes of the attack.

    Attributes:
        sounds, sound_seconds: damaged files to decode in this process, and the time for it.
        sent_sounds: damaged files to send.
        bodies: malformed or unusual bodies.
        mixed: bodies with extreme but valid values, which share batches.
        megabytes: the size of a heavy body.
        health_seconds: maximum time that ``/health`` may take during a heavy body.
        connections: stalled connections.
        killed: parts that are killed one after the other.
        stopped: number of parts that are also stopped, chosen by the seed.
    """

    sounds: int = 200_000
    sound_seconds: float = 30.0
    sent_sounds: int = 300
    bodies: int = 2500
    mixed: int = 250
    megabytes: int = 60
    health_seconds: float = 1.0
    connections: int = 200
    killed: tuple[str, ...] = ("codec", "router", "scheduler", "detokenizer", "http process", "keeper")
    stopped: int = 2


SHORT = Scale(
    sounds=100,
    sound_seconds=20,
    sent_sounds=40,
    bodies=150,
    mixed=40,
    megabytes=4,
    health_seconds=30,
    connections=20,
    killed=(),
    stopped=0,
)
"""For busy machines: no limit depends on their speed."""


def attack(checkpoint: Path, folder: Path, names: Sequence[str], scale: Scale, seed: int) -> Ledger:
    """Start each target and try everything on it."""
    ledger = Ledger()
    if scale.sounds:
        decode_damaged(ledger, scale.sounds, scale.sound_seconds, seed)
    for number, name in enumerate(names):
        is_fleet, has_keys = _TARGETS[name]
        log = folder / f"{number}.log"
        with target(checkpoint, log, fleet=is_fleet, keys=has_keys) as running:
            _attack_target(running, ledger, scale, seed, is_first=number == 0)
        text = log.read_text(errors="replace")
        ledger.check(f"{name}: log", "Traceback (most recent call last)" not in text, f"a traceback in {log}")
    return ledger


def _attack_target(running: Target, ledger: Ledger, scale: Scale, seed: int, *, is_first: bool) -> None:
    listening_sockets(running, ledger)
    running.answers()
    before = running.memory()
    doors(running, ledger)
    request_targets(running, ledger)
    framing(running, ledger)
    with ThreadPoolExecutor(1) as threads:  # stalled connections take long to be closed
        stalled = threads.submit(stalled_connections, running, ledger, scale.connections)
        if is_first or running.is_fleet:
            clip_urls(running, ledger)
            damaged_over_http(running, ledger, scale.sent_sounds, seed)
            odd_bodies(running, ledger, scale.bodies, seed)
            mixed_bodies(running, ledger, scale.mixed, seed)
            heavy_bodies(running, ledger, scale.megabytes, scale.health_seconds)
            slow_bodies(running, ledger, scale.health_seconds)
        stalled.result()
    growth = running.memory() - before
    ledger.check(f"{running.name}: memory", growth < _MEMORY_BYTES, f"grew by {growth / 1e6:.0f} MB")
    parts = [part for part in scale.killed if running.is_fleet or part in RESTARTED_PARTS]
    stopped = random.Random(seed).sample(parts, min(scale.stopped, len(parts)))
    deaths(running, ledger, signal.SIGSTOP, stopped)
    deaths(running, ledger, signal.SIGKILL, parts)
    if running.is_fleet and scale.killed:
        front_hangs(running, ledger)


def main(arguments: Sequence[str] | None = None) -> int:
    """Attack, print the table and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="try less of everything, and kill no part")
    parser.add_argument("--targets", nargs="+", choices=list(_TARGETS), default=["single, keys", "fleet"])
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    options = parser.parse_args(arguments)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        checkpoint = build_checkpoint(Path(folder) / "small", spec=CheckpointSpec(seed=0))
        ledger = attack(checkpoint, Path(folder), options.targets, SHORT if options.short else Scale(), options.seed)
    print(ledger.table())
    print(f"\nseed {options.seed}, {time.monotonic() - started:.0f} s, {ledger.failed} failed")
    return int(ledger.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
