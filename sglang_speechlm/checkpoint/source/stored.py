"""A tensor that is still in its file."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class StoredTensor:
    """What a file says of a tensor, and the way to read it.

    Attributes:
        shape: of the tensor.
        dtype: in the file.
        read: reads it: a contiguous tensor of this shape and dtype in memory of its own.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]

    @property
    def numel(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)
