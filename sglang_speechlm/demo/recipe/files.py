"""Write the stages' files atomically: a file is complete or absent, however a run ends."""

from __future__ import annotations

from pathlib import Path

import torch


def save(file: Path, what: object) -> None:
    """Write ``what`` for ``torch.load``."""
    partial = file.with_suffix(".partial")
    torch.save(what, partial)
    partial.replace(file)
