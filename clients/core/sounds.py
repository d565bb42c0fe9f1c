"""The answers whose sound is kept: a few, chosen at random."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

KEPT = 20


def choose_lines(last: int) -> frozenset[int]:
    """Of the lines 1 to ``last``, those whose sound is kept; the same ones in every run, so that runs compare."""
    return frozenset(random.Random(0).sample(range(1, last + 1), min(KEPT, last)))


def save_sound(folder: Path, line: int, example_id: str, wav: bytes) -> str:
    """Write a file that is whole whenever it is there; its path."""
    name = re.sub(r"[^\w.-]+", "_", example_id, flags=re.ASCII)[:80]
    path = folder / f"{line:06d}_{name}.wav"
    replace_file(path, wav)
    return str(path)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file at once, so that no reader meets half of it; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_bytes(data)
    os.replace(scratch, path)
