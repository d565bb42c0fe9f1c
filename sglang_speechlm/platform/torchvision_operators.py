"""torchvision's CUDA build next to a CPU build of torch: its operators are missing and its import fails.

transformers and SGLang import torchvision wherever it is installed, and torchvision registers fake kernels for
``torchvision::nms`` and ``torchvision::qnms`` without looking whether its own library could be loaded. No image is
ever processed here, so the two schemas suffice.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import library as operators

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_NAMES = ("nms", "qnms")


def define_missing_operators() -> None:
    """Define what ``import torchvision`` needs, unless torchvision's own library can be loaded. Idempotent."""
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None or hasattr(torch.ops.torchvision, "nms"):
        return
    for library in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            continue
        return
    for name in _NAMES:
        operators.define(f"torchvision::{name}", _SCHEMA)
