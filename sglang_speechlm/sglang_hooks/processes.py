"""How SGLang's processes begin."""

from __future__ import annotations

import multiprocessing
from multiprocessing import resource_tracker
from typing import Any


def fork_parts(*_args: Any, **_kwargs: Any) -> None:
    """AFTER _set_envs_and_config, which asks for ``spawn``: parts begin as copies of this process instead.

    They need not import again what it has imported, which is most of a start. Nothing of CUDA outlives a fork.
    """
    resource_tracker.ensure_running()  # one for all of them, as with spawn: each would miss what another has removed
    multiprocessing.set_start_method("fork", force=True)
