"""The record of a conversion in the served directory, so that a killed run can be resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sglang_speechlm.checkpoint.shards import write_text
from sglang_speechlm.config.files import read_json

_FILE = "conversion.json"
_SAFETENSORS_UNFINISHED = ".tmp??????"
"""Name suffix of a file that safetensors is writing."""


class OtherConversion(ValueError):
    """The directory belongs to another conversion; a caller may start over in its own cache."""


def begin_or_resume(directory: Path, plan: dict[str, Any]) -> None:
    """Record ``plan`` in ``directory``, or resume the conversion that is recorded there.

    Raises:
        FileExistsError: if the directory contains files but no record.
        OtherConversion: if another conversion is recorded; the message names the entries that differ.
    """
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / _FILE
    plan = json.loads(json.dumps(plan))
    if file.is_file():
        recorded = read_json(file)
        differing = sorted(key for key in plan.keys() | recorded.keys() if plan.get(key) != recorded.get(key))
        if differing:
            raise OtherConversion(
                f"{directory} was started with different {', '.join(differing)}; use another directory or delete it"
            )
    elif {*directory.iterdir()} - {*_unfinished(directory)}:
        raise FileExistsError(f"{directory} is not empty and has no conversion to resume")
    for leftover in _unfinished(directory):
        leftover.unlink()
    write_text(file, json.dumps(plan, indent=2) + "\n")


def _unfinished(directory: Path) -> list[Path]:
    """Return the files that a killed run left unfinished."""
    return [*directory.glob("*.part"), *directory.glob(_SAFETENSORS_UNFINISHED)]
