"""Keep torch's threads out of a process that is forked later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_threads() -> Iterator[None]:
    """Let torch compute in this thread alone.

    The threads of its first large computation do not survive a fork: the child's own computations would wait for them
    forever.
    """
    import torch

    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)
