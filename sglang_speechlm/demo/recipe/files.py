"""What stages leave behind: whole files or none, however a run ends."""

from __future__ import annotations

from pathlib import Path

import torch


def save(file: Path, what: object) -> None:
    """Write for ``torch.load``."""
    partial = file.with_suffix(".partial")
    torch.save(what, partial)
    partial.replace(file)
