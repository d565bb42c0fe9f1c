"""Leave torch's compiler out of a process that compiles nothing: importing it takes longer than importing torch.

transformers imports one class of ``torch._dynamo``, torchvision one function, and each thereby imports the package. To
write the docstring of a config class, transformers also imports its code for generation, which needs the package.
SGLang marks functions for the compiler, which imports the rest of it. Without a GPU, none of them is compiled.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from sglang_speechlm.platform.imports import after_import, before_import

_PACKAGE = "torch._dynamo"
_OF_TRANSFORMERS = "_trace_wrapped_higher_order_op"
_OF_TORCHVISION = "utils"
_MARKERS = ("allow_in_graph", "assume_constant_result", "disable")
"""Functions of ``torch.compiler`` and ``torch._dynamo`` that mark a function for the compiler."""


def spare_transformers() -> None:
    """Let transformers import a config without generation, and one module of the compiler without the others.

    Idempotent; imports nothing itself.
    """
    before_import("transformers.masking_utils", _import_alone)
    after_import("transformers.utils.auto_docstring", _write_no_docstrings)


def compile_nothing() -> None:
    """Make torch return functions unchanged instead of compiling them. Call it before SGLang is imported.

    SGLang compiles its repetition penalty on first use: this would block all requests for 40 s, and end the scheduler
    if there is no C++ compiler.
    """
    import torch

    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    torch.compile = _unchanged  # type: ignore[assignment]
    for name in _MARKERS:
        setattr(torch.compiler, name, _unchanged)
    if _PACKAGE not in sys.modules:
        torch._dynamo = _Unused()
        utilities = ModuleType(f"{_PACKAGE}.{_OF_TORCHVISION}")
        utilities.is_compile_supported = _return_false  # type: ignore[attr-defined]
        sys.modules[utilities.__name__] = utilities
        before_import(_PACKAGE, _forget_utilities)


class _Unused:
    """``torch._dynamo`` while only its markers are used; any other attribute imports it."""

    def __getattr__(self, name: str) -> Any:
        return _unchanged if name in _MARKERS else getattr(import_module(_PACKAGE), name)


def _forget_utilities(_folder: Path) -> None:
    sys.modules.pop(f"{_PACKAGE}.{_OF_TORCHVISION}", None)


def _import_alone(_folder: Path) -> None:
    import torch

    name = f"{_PACKAGE}.{_OF_TRANSFORMERS}"
    file = Path(torch.__file__).parent / "_dynamo" / f"{_OF_TRANSFORMERS}.py"
    spec = spec_from_file_location(name, file)
    if name in sys.modules or not file.exists() or spec is None or spec.loader is None:
        return
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)


def _write_no_docstrings(module: ModuleType) -> None:
    module.auto_docstring = _unchanged  # type: ignore[attr-defined]


def _unchanged(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Callable[..., Any]:
    """Return a function itself, or a decorator that does."""
    return function if function is not None else _unchanged


def _return_false(*_: Any, **__: Any) -> bool:
    return False
