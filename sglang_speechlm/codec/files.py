"""A reply's sound as a file in the requested format."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Literal

import soundfile

from sglang_speechlm.codec import Samples, to_pcm16
from sglang_speechlm.codec.encoder import Encoder

LOWEST_RATE = 8_000
HIGHEST_RATE = 48_000
OPENAI_RATE = 24_000
"""Default rate of raw PCM in Hz: OpenAI's clients play it at this rate, whatever the response says."""

RATE_HEADER = "X-Audio-Sample-Rate"

FileFormat = Literal["mp3", "opus", "aac", "flac", "wav"]
FormatName = Literal[FileFormat, "pcm", "pcm16"]
"""Files, and OpenAI's two names of raw PCM: for speech, and for a chat."""


@dataclass(frozen=True)
class _Kind:
    """A format: its media type, its container and subtype if libsndfile writes it, and its rates in Hz if few."""

    media_type: str
    libsndfile: tuple[str, str] | None = None
    rates: tuple[int, ...] | None = None


_MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_KINDS: dict[FormatName, _Kind] = {
    # A file that is written as a whole states its exact length; one in pieces cannot.
    "mp3": _Kind("audio/mpeg", ("MP3", "MPEG_LAYER_III"), _MP3_RATES),
    "opus": _Kind("audio/ogg", ("OGG", "OPUS"), (8_000, 12_000, 16_000, 24_000, 48_000)),
    "aac": _Kind("audio/aac", None, _MP3_RATES),
    "flac": _Kind("audio/flac", ("FLAC", "PCM_16")),
    "wav": _Kind("audio/wav", ("WAV", "PCM_16")),
    "pcm": _Kind("audio/pcm"),
    "pcm16": _Kind("audio/pcm"),
}


@dataclass(frozen=True)
class SoundFormat:
    """The format of an answer's sound.

    Attributes:
        name: its name in requests.
        rate: sample rate in Hz.
    """

    name: FormatName
    rate: int

    @property
    def media_type(self) -> str:
        """Its media type."""
        return _KINDS[self.name].media_type

    @property
    def is_raw(self) -> bool:
        """Whether it has no header that states its rate."""
        return self.name in ("pcm", "pcm16")

    def check(self) -> None:
        """Check that the format supports its rate.

        Raises:
            ValueError: if it does not.
        """
        rates = _KINDS[self.name].rates
        if rates is not None and self.rate not in rates:
            raise ValueError(f"must be {', '.join(map(str, rates))} for {self.name!r}; got {self.rate}")


def encode(samples: Samples, output: SoundFormat) -> bytes:
    """Return ``[n]`` samples as a file; raw PCM is 16 bits wide and little-endian."""
    if output.is_raw:
        return pcm16_bytes(samples)
    if (written := _KINDS[output.name].libsndfile) is None:
        encoder = Encoder(output.name, output.rate)
        return encoder.push(samples) + encoder.flush()
    container, subtype = written
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
