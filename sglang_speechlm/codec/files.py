"""A reply's sound as a file in the requested format."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import soundfile

from sglang_speechlm.codec import Samples, encode_wav, to_pcm16
from sglang_speechlm.codec.encoder import Encoder
from sglang_speechlm.server.edge.errors import bad_field

LOWEST_RATE = 8_000
HIGHEST_RATE = 48_000
OPENAI_RATE = 24_000
"""Default rate of raw PCM in Hz: OpenAI's clients play it at this rate, whatever the response says."""

RATE_HEADER = "X-Audio-Sample-Rate"

MEDIA_TYPES = {
    "wav": "audio/wav", "pcm": "audio/pcm", "pcm16": "audio/pcm", "flac": "audio/flac", "mp3": "audio/mpeg",
    "opus": "audio/ogg", "aac": "audio/aac",
}  # fmt: skip


_BY_LIBSNDFILE = {"flac": ("FLAC", "PCM_16"), "mp3": ("MP3", "MPEG_LAYER_III"), "opus": ("OGG", "OPUS")}
"""Containers and subtypes. An MP3 file that is written as a whole states its exact length; one in pieces cannot."""
_MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_RATES = {"mp3": _MP3_RATES, "aac": _MP3_RATES, "opus": (8_000, 12_000, 16_000, 24_000, 48_000)}
"""Allowed rates in Hz, for formats that do not support every rate."""


@dataclass(frozen=True)
class SoundFormat:
    """The format of an answer's sound.

    Attributes:
        name: one of ``MEDIA_TYPES``.
        rate: sample rate in Hz.
    """

    name: str
    rate: int

    @property
    def is_raw(self) -> bool:
        """Whether it has no header that states its rate."""
        return self.name in ("pcm", "pcm16")


def check_rate(output: SoundFormat) -> None:
    """Check that a format goes with its rate.

    Raises:
        ApiError: 400 if it does not.
    """
    if output.rate not in (rates := _RATES.get(output.name, (output.rate,))):
        allowed = ", ".join(map(str, rates))
        raise bad_field("sample_rate", f"{output.name!r} goes with {allowed}; got {output.rate}")


def encode(samples: Samples, output: SoundFormat) -> bytes:
    """Return ``[n]`` samples as a file; raw PCM is 16 bits wide and little-endian."""
    if output.is_raw:
        return pcm16_bytes(samples)
    if output.name == "wav":
        return encode_wav(samples, output.rate)
    if output.name not in _BY_LIBSNDFILE:
        encoder = Encoder(output.name, output.rate)
        return encoder.push(samples) + encoder.flush()
    container, subtype = _BY_LIBSNDFILE[output.name]
    file = io.BytesIO()
    soundfile.write(file, to_pcm16(samples), output.rate, format=container, subtype=subtype)
    return file.getvalue()


def pcm16_bytes(samples: Samples) -> bytes:
    """Return ``[n]`` samples as raw little-endian 16-bit PCM."""
    return to_pcm16(samples).astype("<i2", copy=False).tobytes()


def endless_wav_header(sample_rate: int) -> bytes:
    """Return the header of a mono 16-bit WAV file of unknown length: both of its sizes are the largest value."""
    unknown = 0xFFFFFFFF
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF", unknown, b"WAVE",
        b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16,
        b"data", unknown,
    )  # fmt: skip
