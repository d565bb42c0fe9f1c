"""Samples as 16-bit PCM at any sample rate."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import soxr

from sglang_speechlm.codec.wav import to_pcm16


class PcmStream:
    """Turns one sound into 16-bit PCM at another rate; the joined results equal those of the whole sound at once."""

    def __init__(self, source_rate: int, target_rate: int) -> None:
        """Take the rates in Hz."""
        changes = source_rate != target_rate
        self._resampler = soxr.ResampleStream(source_rate, target_rate, 1, dtype="float32") if changes else None

    def push(self, samples: npt.NDArray[np.float32], *, is_last: bool = False) -> npt.NDArray[np.int16]:
        """Return the output that is now final, or all the rest: float32 [n] in, [m] out."""
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples, is_last)
        return to_pcm16(samples)
