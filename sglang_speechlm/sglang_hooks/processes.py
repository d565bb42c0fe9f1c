"""How SGLang's processes start."""

from __future__ import annotations

import multiprocessing
import os
import pkgutil
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing import resource_tracker
from typing import Any


def fork_parts(*_args: Any, **_kwargs: Any) -> None:
    """AFTER _set_envs_and_config, which sets ``spawn``: fork the child processes instead.

    They then have this process's imports, which are most of a start's time. Not possible with CUDA, which does not
    survive a fork.
    """
    resource_tracker.ensure_running()  # one for all children, as with spawn: own ones would miss others' removals
    multiprocessing.set_start_method("fork", force=True)


def import_own_processors(original: Callable[..., None], package: str, *args: Any, **kwargs: Any) -> None:
    """AROUND import_processors: skip SGLang's own, which saves over a second per process; this model needs none."""
    if not package.startswith("sglang."):
        original(package, *args, **kwargs)


def disable_other_models() -> None:
    """Stop SGLang from registering its own models, here and in child processes, because it would import all of them."""
    spec = find_spec("sglang.srt.models")
    assert spec is not None
    names = {module.name for module in pkgutil.iter_modules(spec.submodule_search_locations)}
    os.environ["SGLANG_DISABLED_MODEL_ARCHS"] = ",".join(sorted(names))
