"""A tensor in a file, not yet read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class StoredTensor:
    """A tensor's description, and the function that reads it.

    Attributes:
        shape: its shape.
        dtype: its dtype in the file.
        read: returns it as a contiguous tensor of this shape and dtype in its own memory.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)
