"""Samples as 16-bit PCM, raw or in a WAV file."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import soundfile

Samples = npt.NDArray[np.float32 | np.int16]
"""Samples [n]: floats of which 1.0 is full scale, or 16-bit PCM."""


def to_pcm16(samples: Samples) -> npt.NDArray[np.int16]:
    """Quantise float samples (full scale 1.0) to 16 bits: times 32768, to the nearest (halves to even), clipped.

    Each sample is quantised by itself, so that the pieces of a stream equal the whole file. 32768 is the scale by which
    libsndfile reads 16-bit files back. 16-bit samples are returned as they are.
    """
    if samples.dtype == np.int16:
        return samples.astype(np.int16, copy=False)
    return np.clip(np.rint(samples * np.float32(32768)), -32768, 32767).astype(np.int16)


def encode_wav(samples: Samples, sample_rate: int) -> bytes:
    """Return a mono 16-bit PCM WAV file of ``[n]`` samples at ``sample_rate`` Hz."""
    file = io.BytesIO()
    soundfile.write(file, to_pcm16(samples), sample_rate, format="WAV", subtype="PCM_16")
    return file.getvalue()
