"""A reply's whole sound as a file of the asked format."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess

import numpy as np
import numpy.typing as npt
import soundfile

from sglang_speechlm.codec import encode_wav, to_pcm16
from sglang_speechlm.server.edge.errors import bad_field

_BY_LIBSNDFILE = {"flac": ("FLAC", "PCM_16"), "mp3": ("MP3", "MPEG_LAYER_III"), "opus": ("OGG", "OPUS")}
_FFMPEG_SECONDS = 60

RATE_HEADER = "X-Audio-Sample-Rate"

MEDIA_TYPES = {
    "wav": "audio/wav", "pcm": "audio/pcm", "pcm16": "audio/pcm", "flac": "audio/flac", "mp3": "audio/mpeg",
    "opus": "audio/ogg", "aac": "audio/aac",
}  # fmt: skip


class SoundFiles:
    """Encodes samples at one rate. AAC, which libsndfile does not write, takes an ffmpeg that is there at the start."""

    def __init__(self, sample_rate: int) -> None:
        """Take the rate in Hz."""
        self._sample_rate = sample_rate
        self._ffmpeg = shutil.which("ffmpeg")

    def check(self, field: str, name: str | None) -> None:
        """Raises:
        ApiError: 400 if a format cannot be had here.
        """
        if name == "aac" and self._ffmpeg is None:
            raise bad_field(field, "'aac' takes ffmpeg, and this server found none when it started")

    def encode(self, samples: npt.NDArray[np.float32], name: str) -> bytes:
        """``[n]`` float samples as a file of one of ``MEDIA_TYPES``; "pcm16" is bare and little-endian."""
        if name == "wav":
            return encode_wav(samples, self._sample_rate)
        if name == "pcm16":
            return pcm16_bytes(samples)
        if name == "aac":
            return self._encode_aac(samples)
        container, subtype = _BY_LIBSNDFILE[name]
        file = io.BytesIO()
        soundfile.write(file, to_pcm16(samples), self._sample_rate, format=container, subtype=subtype)
        return file.getvalue()

    def _encode_aac(self, samples: npt.NDArray[np.float32]) -> bytes:
        assert self._ffmpeg is not None
        read = ("-f", "s16le", "-ar", str(self._sample_rate), "-ac", "1", "-i", "pipe:0")
        command = [self._ffmpeg, "-v", "error", *read, "-c:a", "aac", "-f", "adts", "pipe:1"]
        return subprocess.run(
            command, input=pcm16_bytes(samples), stdout=subprocess.PIPE, check=True, timeout=_FFMPEG_SECONDS
        ).stdout


def pcm16_bytes(samples: npt.NDArray[np.float32]) -> bytes:
    """``[n]`` float samples as bare little-endian 16-bit PCM."""
    return to_pcm16(samples).astype("<i2").tobytes()


def endless_wav_header(sample_rate: int) -> bytes:
    """The header of a mono 16-bit WAV file whose length is not known yet: both of its sizes are the largest."""
    unknown = 0xFFFFFFFF
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF", unknown, b"WAVE",
        b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16,
        b"data", unknown,
    )  # fmt: skip
