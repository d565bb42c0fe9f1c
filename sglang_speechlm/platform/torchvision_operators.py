"""Work around torchvision's CUDA build next to a CPU build of torch: its operators are missing and its import fails.

transformers and SGLang import torchvision wherever it is installed, and torchvision registers fake kernels for
``torchvision::nms`` and ``torchvision::qnms`` without checking whether its own library could be loaded. This package
never processes images, so the two schemas suffice.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_NAMES = ("nms", "qnms")


def define_when_imported() -> None:
    """Define the missing operators just before torchvision is imported. Idempotent; imports nothing itself."""
    if "torchvision" not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find torchvision as Python does, and define its operators before its first line runs."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname == "torchvision" else None
        if spec is None or spec.loader is None or spec.origin is None:
            return None
        folder, execute = Path(spec.origin).parent, spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            _define(folder)
            execute(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _define(folder: Path) -> None:
    """Define what torchvision's import needs, unless its own library in its ``folder`` can be loaded."""
    import torch
    from torch import library as operators

    if hasattr(torch.ops.torchvision, "nms"):
        return
    for library in folder.glob("_C*.so"):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            continue
        return
    for name in _NAMES:
        operators.define(f"torchvision::{name}", _SCHEMA)
