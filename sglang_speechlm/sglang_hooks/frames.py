"""Frames between the sampler and SGLang's output: bytes, because an object per id would cost too much."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from sglang_speechlm.stage import FRAME_ID, frames_of


class FrameRows:
    """The frames of one step."""

    def __init__(self, frames: torch.Tensor) -> None:
        """Take the frames of a batch, int64 [N, num_stream], on the host."""
        self.num_stream = frames.shape[1]
        self._size = self.num_stream * FRAME_ID.itemsize
        self._data = frames.numpy().astype(FRAME_ID).tobytes()

    def __getitem__(self, row: int) -> bytes:
        return self._data[row * self._size : (row + 1) * self._size]


class FrameLog:
    """The frames of one request, which SGLang slices by output ids like a list; a slice has one chunk of bytes."""

    def __init__(self, num_stream: int) -> None:
        self._num_stream = num_stream
        self._size = num_stream * FRAME_ID.itemsize
        self._data = bytearray()

    def append(self, frame: bytes) -> None:
        """Add the next frame."""
        self._data += frame

    def __getitem__(self, part: slice) -> list[bytes]:
        start, stop, _ = part.indices(len(self._data) // self._size)
        return [bytes(self._data[start * self._size : stop * self._size])] if start < stop else []

    def array(self) -> npt.NDArray[np.int32]:
        """Return all frames, int32 [F, num_stream]."""
        return frames_of(self[:], self._num_stream)
