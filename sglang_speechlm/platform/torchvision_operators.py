"""Work around torchvision's CUDA build next to a CPU build of torch: its operators are missing and its import fails.

transformers and SGLang import torchvision wherever it is installed, and torchvision registers fake kernels for
``torchvision::nms`` and ``torchvision::qnms`` without checking whether its own library could be loaded. This package
never processes images, so the two schemas suffice.
"""

from __future__ import annotations

from pathlib import Path

from sglang_speechlm.platform.imports import before_import

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_NAMES = ("nms", "qnms")


def define_when_imported() -> None:
    """Define the missing operators just before torchvision is imported. Idempotent; imports nothing itself."""
    before_import("torchvision", _define)


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
