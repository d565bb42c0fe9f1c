"""``make attack``: try on started servers what strangers try; exit status 0 if everything held.

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
from dataclasses import dataclass
from pathlib import Path

from sglang_speechlm.checkpoint import CheckpointSpec, build_checkpoint

from .bodies import heavy_bodies, odd_bodies, slow_bodies
from .clips import clip_urls, damaged_over_http, decode_damaged
from .deaths import SERVED_WITHOUT, deaths, front_hangs
from .doors import doors, framing, request_targets
from .ledger import Ledger
from .mixed import mixed_bodies
from .stalls import listening_sockets, stalled_connections
from .target import Target, target

_MEMORY_BYTES = 400 << 20
"""By which a family may grow during the attack: caches fill, and freed memory is not always given back."""
_TARGETS = {
    "single": (False, False),
    "single, keys": (False, True),
    "fleet": (True, False),
    "fleet, keys": (True, True),
}


@dataclass(frozen=True)
class Scale:
    """How much is tried.

    Attributes:
        sounds, sound_seconds: damaged files to decode in this process, and the time for it.
        sent_sounds: damaged files to send.
        bodies: odd bodies.
        mixed: bodies from the ends of what is allowed, which share batches.
        megabytes: of a heavy body.
        health_seconds: that ``/health`` may wait for one.
        connections: that stall.
        killed: parts that are killed, one after the other.
        stopped: how many parts are stopped, too; which ones depends on the seed.
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
    sounds=2000,
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
"""For a machine that has other things to do: nothing in it depends on how fast that is."""


def attack(checkpoint: Path, folder: Path, names: Sequence[str], scale: Scale, seed: int) -> Ledger:
    """Start each of the targets and try everything on it."""
    ledger = Ledger()
    if scale.sounds:
        decode_damaged(ledger, scale.sounds, scale.sound_seconds, seed)
    for number, name in enumerate(names):
        is_fleet, has_keys = _TARGETS[name]
        log = folder / f"{number}.log"
        with target(checkpoint, log, fleet=is_fleet, keys=has_keys) as attacked:
            _attack_target(attacked, ledger, scale, seed, is_first=number == 0)
        text = log.read_text(errors="replace")
        ledger.check(f"{name}: log", "Traceback (most recent call last)" not in text, f"a traceback in {log}")
    return ledger


def _attack_target(attacked: Target, ledger: Ledger, scale: Scale, seed: int, *, is_first: bool) -> None:
    listening_sockets(attacked, ledger)
    attacked.answers()
    before = attacked.memory()
    doors(attacked, ledger)
    request_targets(attacked, ledger)
    framing(attacked, ledger)
    stalled_connections(attacked, ledger, scale.connections)
    if is_first or attacked.is_fleet:
        clip_urls(attacked, ledger)
        damaged_over_http(attacked, ledger, scale.sent_sounds, seed)
        odd_bodies(attacked, ledger, scale.bodies, seed)
        mixed_bodies(attacked, ledger, scale.mixed, seed)
        heavy_bodies(attacked, ledger, scale.megabytes, scale.health_seconds)
        slow_bodies(attacked, ledger, scale.health_seconds)
    grown = attacked.memory() - before
    ledger.check(f"{attacked.name}: memory", grown < _MEMORY_BYTES, f"grew by {grown / 1e6:.0f} MB")
    parts = [part for part in scale.killed if attacked.is_fleet or part in SERVED_WITHOUT]
    stopped = random.Random(seed).sample(parts, min(scale.stopped, len(parts)))
    deaths(attacked, ledger, signal.SIGSTOP, stopped)
    deaths(attacked, ledger, signal.SIGKILL, parts)
    if attacked.is_fleet and scale.killed:
        front_hangs(attacked, ledger)


def main(arguments: Sequence[str] | None = None) -> int:
    """Attack, print the table, and give the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="try less of everything, and kill no part")
    parser.add_argument("--targets", nargs="+", choices=list(_TARGETS), default=["single, keys", "fleet"])
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    options = parser.parse_args(arguments)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        checkpoint = build_checkpoint(Path(folder) / "small", spec=CheckpointSpec(seed=0))
        ledger = attack(checkpoint, Path(folder), options.targets, SHORT if options.short else Scale(), options.seed)
    print(ledger.table())
    print(f"\nseed {options.seed}, {time.monotonic() - began:.0f} s, {ledger.fallen} fallen")
    return int(ledger.fallen > 0)


if __name__ == "__main__":
    sys.exit(main())
