"""The record of a conversion, in the served directory: what is being written, so that a killed run can go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sglang_speechlm.checkpoint.shards import write_text

_FILE = "conversion.json"


def begin_or_resume(directory: Path, plan: dict[str, Any]) -> None:
    """Record ``plan`` in ``directory``, or go on with the conversion that is recorded there.

    Raises:
        FileExistsError: if the directory holds files but no record.
        ValueError: if another conversion is recorded, naming the entries that differ.
    """
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / _FILE
    plan = json.loads(json.dumps(plan))
    if file.is_file():
        recorded = json.loads(file.read_text(encoding="utf-8"))
        differing = sorted(key for key in plan.keys() | recorded.keys() if plan.get(key) != recorded.get(key))
        if differing:
            raise ValueError(
                f"{directory} was begun with other {', '.join(differing)}; convert to another directory or delete it"
            )
        return
    if any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty and holds no conversion to go on with")
    write_text(file, json.dumps(plan, indent=2) + "\n")
