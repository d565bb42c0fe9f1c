"""How SGLang's processes begin."""

from __future__ import annotations

import multiprocessing
import os
import pkgutil
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing import resource_tracker
from typing import Any


def fork_parts(*_args: Any, **_kwargs: Any) -> None:
    """AFTER _set_envs_and_config, which asks for ``spawn``: parts begin as copies of this process instead.

    They need not import again what it has imported, which is most of a start. Nothing of CUDA outlives a fork.
    """
    resource_tracker.ensure_running()  # one for all of them, as with spawn: each would miss what another has removed
    multiprocessing.set_start_method("fork", force=True)


def import_own_processors(original: Callable[..., None], package: str, *args: Any, **kwargs: Any) -> None:
    """AROUND import_processors, for more than a second in each process: pass over SGLang's own, which none needs."""
    if not package.startswith("sglang."):
        original(package, *args, **kwargs)


def disable_other_models() -> None:
    """Have SGLang register none of its own models, here and in the parts: that imports every one of them."""
    spec = find_spec("sglang.srt.models")
    assert spec is not None
    names = {module.name for module in pkgutil.iter_modules(spec.submodule_search_locations)}
    os.environ["SGLANG_DISABLED_MODEL_ARCHS"] = ",".join(sorted(names))
