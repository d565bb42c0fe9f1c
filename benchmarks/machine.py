"""Record the command and the machine of a measurement with its figures."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def record(output: Path, figures: Mapping[str, Any]) -> dict[str, str]:
    """Write figures as JSON with their command and machine; return the machine's description."""
    machine = describe()
    spec = sys.modules["__main__"].__spec__
    command = shlex.join(["python", "-m", spec.name if spec is not None else "", *sys.argv[1:]])
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"command": command, "machine": machine, **figures}, indent=2) + "\n")
    return machine


def title(of: str, machine: Mapping[str, str]) -> str:
    """Return a picture's title, with the machine."""
    on = [name for name in (machine["accelerator"], machine["processor"]) if name != "none"]
    return f"{of}; {', '.join(on)}"


def describe() -> dict[str, str]:
    """Return the machine's processor and accelerator, and the versions and the commit."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    )
    return {
        "processor": _processor(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "sglang": version("sglang"),
        "commit": commit.stdout.strip() or "unknown",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()
