"""Python's garbage collector, which would take a fifth of the time of the imports and find nothing."""

from __future__ import annotations

import gc


def collect_no_garbage() -> None:
    """Turn the collector off while this process imports its modules."""
    gc.disable()


def collect_garbage() -> None:
    """Turn the collector on, and exclude existing objects, which stay alive anyway."""
    gc.freeze()
    gc.enable()
