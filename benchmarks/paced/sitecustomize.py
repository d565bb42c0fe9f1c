"""For a server's processes, first in their PYTHONPATH: steps begin at least STEP_SECONDS apart, as if a GPU took it."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_SCHEDULER = "sglang.srt.managers.scheduler"


class _Finder:
    """Finds SGLang's scheduler, whose steps must wait; it is imported long after this module."""

    def find_spec(self, name: str, _path: Sequence[str] | None = None, _target: Any = None) -> ModuleSpec | None:
        if name != _SCHEDULER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_pace(module: ModuleType) -> None:
            execute(module)
            _pace(module.Scheduler)

        spec.loader.exec_module = execute_and_pace  # type: ignore[method-assign]
        return spec


def _pace(scheduler: Any) -> None:
    run, seconds, earliest = scheduler.run_batch, float(os.environ["STEP_SECONDS"]), 0.0

    def run_in_time(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal earliest
        time.sleep(max(0.0, earliest - time.monotonic()))
        earliest = time.monotonic() + seconds
        return run(self, *args, **kwargs)

    scheduler.run_batch = run_in_time


sys.meta_path.insert(0, _Finder())
