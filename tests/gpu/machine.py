"""A description of the machine: card, driver, compilers and packages."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import subprocess
from typing import Any

import psutil
import torch

from sglang_speechlm.process import ServerProcess

from .report import Figures

_PACKAGES = ("torch", "triton", "sglang", "sglang-kernel", "flashinfer-python", "transformers", "sglang-speechlm")
_IMPORTED = ("sgl_kernel", "flashinfer", "triton")


def describe(figures: Figures, *, on_gpu: bool) -> None:
    """Fill in the figures of the machine.

    Raises:
        AssertionError: if a GPU is expected but torch cannot use it.
    """
    figures["cpus"] = len(os.sched_getaffinity(0))
    figures["packages"] = {name: _version(name) for name in _PACKAGES}
    figures["imports"] = {name: _imports(name) for name in _IMPORTED}
    figures["commands"] = {
        "nvidia-smi": _first_line(
            "nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"
        ),
        "nvcc": _last_line(shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc", "--version"),
        "g++": _first_line("g++", "--version"),
    }
    figures["torch"] = {"cuda": torch.version.cuda, "available": torch.cuda.is_available()}
    if on_gpu:
        assert torch.cuda.is_available(), "torch.cuda.is_available() is False"
        card = torch.cuda.get_device_properties(0)
        figures["card"] = {
            "name": card.name,
            "capability": f"{card.major}.{card.minor}",
            "gibibytes": round(card.total_memory / (1 << 30), 1),
            "multiprocessors": card.multi_processor_count,
        }


def used_gibibytes(server: ServerProcess, *, on_gpu: bool) -> float:
    """Return the memory in use on the GPU, or the resident memory of a server's processes."""
    if on_gpu:
        used = _first_line("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits")
        return round(float(used) / 1024, 2)
    launcher = psutil.Process(server.process.pid)
    processes = [launcher, *launcher.children(recursive=True)]
    return round(sum(process.memory_info().rss for process in processes) / (1 << 30), 2)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _imports(name: str) -> str:
    try:
        importlib.import_module(name)
    except Exception as error:  # a kernel package fails in many ways without its card
        return f"{type(error).__name__}: {error}"[:300]
    return "yes"


def _lines(*command: str) -> list[str]:
    try:
        result: Any = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"{type(error).__name__}: {error}"]
    return (result.stdout or result.stderr).strip().splitlines() or [f"status {result.returncode}"]


def _first_line(*command: str) -> str:
    return _lines(*command)[0]


def _last_line(*command: str) -> str:
    return _lines(*command)[-1]
