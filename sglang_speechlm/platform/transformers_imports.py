"""Let transformers import less, so that a server starts sooner."""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from sglang_speechlm.platform.imports import after_import, before_import
from sglang_speechlm.platform.torch_compiler import unchanged

_LOSSES = "transformers.loss.loss_utils"
_OF_COMPILER = "_trace_wrapped_higher_order_op"


def import_less() -> None:
    """Let transformers import a config without its code for generation, and without torch's compiler.

    It imports one class of ``torch._dynamo``, and thereby the package; it imports its code for generation to write the
    docstring of a config class; and it reads the files of all its models twice to learn what each of them defines.

    Idempotent; imports nothing itself.
    """
    after_import("transformers.utils.import_utils", _read_models_once)
    after_import("transformers.utils.auto_docstring", _write_no_docstrings)
    before_import("transformers.masking_utils", _import_alone)


def train_nothing() -> None:
    """Let transformers import a model without scipy's optimizers, which only its losses use.

    Call it before transformers imports a model, in a process that trains none. Idempotent; imports nothing itself.
    """
    before_import(_LOSSES, _hide_scipy)
    after_import(_LOSSES, _show_scipy)


def _read_models_once(module: ModuleType) -> None:
    read_folder = cache(module.create_import_structure_from_path)

    def read(path: str | Path) -> Any:
        folder = path if os.path.isdir(path) else os.path.dirname(path)
        return read_folder(str(folder))

    module.create_import_structure_from_path = read  # type: ignore[attr-defined]


def _write_no_docstrings(module: ModuleType) -> None:
    module.auto_docstring = unchanged  # type: ignore[attr-defined]


def _import_alone(_folder: Path) -> None:
    import torch

    name = f"torch._dynamo.{_OF_COMPILER}"
    file = Path(torch.__file__).parent / "_dynamo" / f"{_OF_COMPILER}.py"
    spec = spec_from_file_location(name, file)
    if name in sys.modules or not file.exists() or spec is None or spec.loader is None:
        return
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)


def _hide_scipy(_folder: Path) -> None:
    from transformers import utils

    utils.is_scipy_available = _return_false


def _show_scipy(_losses: ModuleType) -> None:
    from transformers import utils
    from transformers.utils.import_utils import is_scipy_available

    utils.is_scipy_available = is_scipy_available


def _return_false() -> bool:
    return False
