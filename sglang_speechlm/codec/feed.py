"""An answer's frames on their way to the codec process."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sglang_speechlm.codec.delay import Deinterleaver
from sglang_speechlm.codec.stream import CodecStream
from sglang_speechlm.config import Ids


class FrameFeed:
    """Undoes the delay of frames and pushes their codes to a stream."""

    def __init__(self, stream: CodecStream, ids: Ids) -> None:
        self._stream = stream
        self._undelayed = Deinterleaver(ids)
        self._pushed = [np.empty((0, ids.num_stream), np.int64)]

    async def push(self, frames: npt.NDArray[np.integer]) -> None:
        """Take the next ``[n, S]`` frames.

        Raises:
            ValueError: as for ``Deinterleaver.push``.
            CodecError: if the stream has failed.
        """
        codes = self._undelayed.push(frames)
        if len(codes):
            self._pushed.append(codes)
            await self._stream.push(codes)

    def codes(self) -> npt.NDArray[np.int64]:
        """Return the codes that have been pushed, int64 ``[T, S]``."""
        return np.concatenate(self._pushed)
