"""Free disk space, checked before anything large is written."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from sglang_speechlm.config.files import CheckpointError

_GIGABYTE = 1e9


@dataclass(frozen=True)
class Need:
    """Bytes that are about to be written.

    Attributes:
        folder: where; it need not exist yet.
        size: in bytes.
        purpose: for the message, such as "to download".
    """

    folder: Path
    size: int
    purpose: str

    @property
    def description(self) -> str:
        """The need as part of a sentence."""
        return f"{self.size / _GIGABYTE:.2f} GB {self.purpose} ({self.folder})"

    @property
    def existing(self) -> Path:
        """The folder, or the nearest one above it that exists."""
        folder = self.folder.absolute()
        return next(candidate for candidate in (folder, *folder.parents) if candidate.exists())


def refuse_full_disk(*needs: Need) -> None:
    """Reject needs that do not fit on their disks; those on the same file system are added up.

    Raises:
        CheckpointError: naming what is needed, where, and how much is free.
    """
    by_device: dict[int, list[Need]] = {}
    for need in needs:
        by_device.setdefault(need.existing.stat().st_dev, []).append(need)
    for together in by_device.values():
        free = shutil.disk_usage(together[0].existing).free
        if sum(need.size for need in together) > free:
            needed = " and ".join(need.description for need in together)
            raise CheckpointError(
                f"not enough disk space: {needed}, but only {free / _GIGABYTE:.2f} GB are free; "
                "set HF_HOME to move downloads, --convert-dir to move conversions"
            )
