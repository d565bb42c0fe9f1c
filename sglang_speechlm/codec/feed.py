"""An answer's frames on their way to the codec process."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sglang_speechlm.codec.delay import Deinterleaver
from sglang_speechlm.codec.stream import CodecStream
from sglang_speechlm.config import Ids


class FrameFeed:
    """Holds frames until they complete a piece, then undoes their delay and pushes their codes to a stream."""

    def __init__(self, stream: CodecStream, ids: Ids) -> None:
        self._stream = stream
        self._undelayed = Deinterleaver(ids)
        self._delay = ids.num_stream - 1
        self._count = 0
        self._held: list[npt.NDArray[np.integer]] = []
        self._pushed = [np.empty((0, ids.num_stream), np.int64)]

    async def push(self, frames: npt.NDArray[np.integer]) -> None:
        """Take the next ``[n, S]`` frames.

        Raises:
            ValueError: as for ``deinterleave``.
            CodecError: if the stream has failed.
        """
        before, self._count = self._count, self._count + len(frames)
        self._held.append(frames)
        if self._stream.completes_piece(max(self._count - self._delay, 0) - max(before - self._delay, 0)):
            await self.flush()

    async def flush(self) -> None:
        """Push all codes.

        Raises:
            ValueError: as for ``deinterleave``.
            CodecError: if the stream has failed.
        """
        if self._held:
            codes = self._undelayed.push(np.concatenate(self._held))
            self._held.clear()
            self._pushed.append(codes)
            await self._stream.push(codes)

    def codes(self) -> npt.NDArray[np.int64]:
        """Return the codes that have been pushed, int64 ``[T, S]``."""
        return np.concatenate(self._pushed)
