"""A reply's whole sound as a file of the asked format."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import soundfile

from sglang_speechlm.codec import encode_wav, to_pcm16

_BY_LIBSNDFILE = {"flac": ("FLAC", "PCM_16"), "mp3": ("MP3", "MPEG_LAYER_III"), "opus": ("OGG", "OPUS")}


def encode_audio(samples: npt.NDArray[np.float32], sample_rate: int, name: str) -> bytes:
    """``[n]`` float samples at ``sample_rate`` Hz as "wav", "pcm16" (bare little-endian), "flac", "mp3" or "opus"."""
    if name == "wav":
        return encode_wav(samples, sample_rate)
    if name == "pcm16":
        return pcm16_bytes(samples)
    container, subtype = _BY_LIBSNDFILE[name]
    file = io.BytesIO()
    soundfile.write(file, to_pcm16(samples), sample_rate, format=container, subtype=subtype)
    return file.getvalue()


def pcm16_bytes(samples: npt.NDArray[np.float32]) -> bytes:
    """``[n]`` float samples as bare little-endian 16-bit PCM."""
    return to_pcm16(samples).astype("<i2").tobytes()
