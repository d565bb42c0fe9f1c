"""Leave torch's compiler out of a process that compiles nothing: importing it takes longer than importing torch.

torchvision imports one function of ``torch._dynamo``, and thereby the package. transformers and SGLang mark functions
for the compiler, which imports the rest of it. Without a GPU, none of them is compiled.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from sglang_speechlm.platform.imports import before_import

_PACKAGE = "torch._dynamo"
_OF_TORCHVISION = "utils"
_MARKERS = ("allow_in_graph", "assume_constant_result", "disable")
"""Functions of ``torch.compiler`` and ``torch._dynamo`` that mark a function for the compiler."""


def compile_nothing() -> None:
    """Make torch return functions unchanged instead of compiling them. Idempotent.

    Call it before transformers imports a model, and before SGLang is imported. SGLang compiles its repetition penalty
    on first use: this would block all requests for 40 s, and end the scheduler if there is no C++ compiler.
    """
    import torch

    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    torch.compile = unchanged  # type: ignore[assignment]
    for name in _MARKERS:
        setattr(torch.compiler, name, unchanged)
    if _PACKAGE not in sys.modules:
        torch._dynamo = _Unused()
        utilities = ModuleType(f"{_PACKAGE}.{_OF_TORCHVISION}")
        utilities.is_compile_supported = _return_false  # type: ignore[attr-defined]
        sys.modules[utilities.__name__] = utilities
        before_import(_PACKAGE, _forget_utilities)


class _Unused:
    """``torch._dynamo`` while only its markers are used; any other attribute imports it."""

    def __getattr__(self, name: str) -> Any:
        return unchanged if name in _MARKERS else getattr(import_module(_PACKAGE), name)


def _forget_utilities(_folder: Path) -> None:
    sys.modules.pop(f"{_PACKAGE}.{_OF_TORCHVISION}", None)


def unchanged(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Callable[..., Any]:
    """Return a function itself, or a decorator that does."""
    return function if function is not None else unchanged


def _return_false(*_: Any, **__: Any) -> bool:
    return False
