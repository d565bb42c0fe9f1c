"""Threads for decoding uploaded sound, which takes long.

``asyncio.to_thread`` has a few threads for all requests. If they decoded sound, requests without any would wait for it.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_THREADS = ThreadPoolExecutor((os.cpu_count() or 1) + 4, "decoding")


def decoding(
    work: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> asyncio.Future[Result]:
    """Run ``work`` in one of these threads, in the context of the caller; return its result when awaited."""
    context = contextvars.copy_context()
    return asyncio.get_running_loop().run_in_executor(_THREADS, partial(context.run, work, *args, **kwargs))
