"""Decode a recording of any length as windows that the model can hear."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator

import numpy as np
import soxr

from sglang_speechlm.audio.clip import decode_joined
from sglang_speechlm.audio.errors import AudioError
from sglang_speechlm.audio.mel import SAMPLE_RATE
from sglang_speechlm.audio.windows import Samples, Window, cut_stepwise

_MIN_SECONDS = 0.1
"""Minimum length of a recording, as OpenAI's: a model invents words for a shorter one."""

MAX_SECONDS = 4 * 3600
"""Maximum length of a recording; the rest is ignored."""

_MAX_VALUES = 1 << 31
"""Maximum values (frames times channels) decoded: four hours at 48 kHz may have three channels."""

_PIECE_SECONDS = 30.0


class Recording:
    """A file that is decoded window by window, so that little of it is in memory.

    Attributes:
        seconds: decoded so far.
        warnings: sentences for the response, about what was decoded so far.
    """

    def __init__(self, data: bytes, format: str | None) -> None:
        """Take a complete file, or several joined, and the client's name for its format, as for ``decode_clip``."""
        self.seconds = 0.0
        self.warnings: list[str] = []
        self._data = data
        self._format = format

    def steps(self, longest: float, pause: float | None) -> Generator[Window | None]:
        """Yield windows at 16 kHz, and None after each piece of at most half a minute, as ``cut_stepwise`` does.

        Closing the iterator ends the decoding.

        Raises:
            AudioError: as for ``decode_clip``, when decoding reaches the fault.
        """
        with contextlib.closing(self._pieces()) as pieces:
            yield from cut_stepwise(pieces, SAMPLE_RATE, longest, pause)

    def _pieces(self) -> Generator[Samples]:
        resampler: soxr.ResampleStream | None = None
        current, values = -1, 0
        with contextlib.closing(decode_joined(self._data, self._format, _PIECE_SECONDS)) as decoded:
            for number, piece in decoded:
                self.warnings += piece.warnings
                if number != current:
                    if resampler is not None:
                        yield _flushed(resampler)
                    current = number
                    resampler = (
                        None
                        if piece.rate == SAMPLE_RATE
                        else soxr.ResampleStream(piece.rate, SAMPLE_RATE, 1, "float32")
                    )
                self.seconds += len(piece.samples) / piece.rate
                values += piece.values
                yield piece.samples if resampler is None else resampler.resample_chunk(piece.samples)
                if self.seconds >= MAX_SECONDS or values >= _MAX_VALUES:
                    self.warnings.append(f"only the first {self.seconds / 3600:.1f} h of the recording were heard")
                    break
        if resampler is not None:
            yield _flushed(resampler)
        if not self.seconds:
            raise AudioError("; ".join(("audio clip has no samples", *self.warnings)))
        if self.seconds < _MIN_SECONDS:
            shown = math.floor(self.seconds * 1000) / 1000  # rounded, it could be the minimum
            problem = f"audio clip of {shown:.3f} s is too short; at least {_MIN_SECONDS} s are needed"
            raise AudioError("; ".join((problem, *self.warnings)))


def _flushed(resampler: soxr.ResampleStream) -> Samples:
    return np.asarray(resampler.resample_chunk(np.zeros(0, np.float32), last=True), np.float32)
