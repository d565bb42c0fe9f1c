"""A clip as the model hears it: mono float32 samples at one rate, out of any file that libsndfile reads."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from sglang_speechlm.audio.errors import AudioError

if TYPE_CHECKING:
    from typing_extensions import Buffer

MIN_RATE, MAX_RATE = 1_000, 768_000
"""Sample rates in Hz that a file may have."""

MAX_AMPLITUDE = 1e6
"""Largest sample of a floating-point file (full scale is 1): beyond, float32 mel energies would overflow."""

MAX_VALUES = 1 << 26
"""Most values (frames times channels) that are decoded for one clip: 30 s at 48 kHz may have 46 channels."""

_BLOCK_VALUES = 1 << 18
_UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's SF_COUNT_MAX, given where a header states no length

# Read past the cut, so that the resampler's filter ends in sound there and longer clips show that they are longer.
_LOOKAHEAD_SECONDS = 0.1


@dataclass(frozen=True, eq=False)
class Clip:
    """Mono samples and what the client should know about how they came to be.

    Attributes:
        samples: float32 ``[n]``, all finite, ``n >= 1``; full scale is 1.
        sample_rate: in Hz.
        warnings: sentences for the response, such as that the clip was cut.
    """

    samples: npt.NDArray[np.float32]
    sample_rate: int
    warnings: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Duration after the cut."""
        return len(self.samples) / self.sample_rate


def decode_clip(
    data: bytes, *, format: str | None = None, sample_rate: int = 16_000, max_seconds: float = 30.0
) -> Clip:
    """Decode, mix down to the mean of the channels, resample, and cut at ``max_seconds``.

    Work and memory are bounded by ``max_seconds``, ``MAX_RATE`` and ``MAX_VALUES``, whatever a header promises.
    Mono at ``sample_rate`` comes out bit for bit as libsndfile decodes it. Other rates go through soxr, which is
    what librosa uses and which takes any ratio, where a polyphase filter grows with its terms.

    Args:
        data: a whole file.
        format: what the client calls it. libsndfile goes by content, so this only shows in error messages,
            except for "pcm16": raw little-endian 16-bit mono at ``sample_rate``, which is what this server
            itself answers with under that name (OpenAI knows input_audio as wav and mp3 only).
        sample_rate: of the result, in Hz.
        max_seconds: longest result.

    Raises:
        AudioError: if the data is empty, unreadable, damaged, without samples, a MIDI sample dump, or holds NaN,
            infinite or absurdly large samples, or if its rate or number of values is out of bounds.
    """
    if not data:
        raise AudioError("audio data is empty")
    if format == "pcm16":
        samples = _decode_pcm16(data)
        stated_seconds: float | None = len(samples) / sample_rate
    else:
        samples, stated_seconds = _decode_file(data, format, sample_rate, max_seconds)
    if not len(samples):
        raise AudioError("audio clip holds no samples")
    limit = round(max_seconds * sample_rate)
    if len(samples) <= limit:
        return Clip(samples, sample_rate)
    length = f"{stated_seconds:.1f} s" if stated_seconds is not None else f"more than {max_seconds:g} s"
    return Clip(samples[:limit].copy(), sample_rate, (f"audio clip of {length} was cut to {max_seconds:g} s",))


def _decode_pcm16(data: bytes) -> npt.NDArray[np.float32]:
    if len(data) % 2:
        raise AudioError(f"pcm16 audio must hold two bytes per sample; got {len(data)} bytes")
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)


def _decode_file(
    data: bytes, format: str | None, sample_rate: int, max_seconds: float
) -> tuple[npt.NDArray[np.float32], float | None]:
    """Resampled mono samples, at least ``max_seconds`` of them if there are so many, and the stated duration."""
    try:
        stream = _Bytes(data)
        with _Sound(stream) as sound:
            frames, rate = sound.frames, sound.samplerate
            mono = _read_mono(sound, max_seconds)
            ended_early = sound.format == "MP3" and len(mono) == frames and stream.tell() < len(data)
        if ended_early:
            with _Sound(_OpenEnded(data)) as sound:
                frames, mono = _UNKNOWN_FRAMES, _read_mono(sound, max_seconds)
    except soundfile.LibsndfileError as error:
        declared = f" (declared as {format!r})" if format else ""
        raise AudioError(
            f"audio data{declared} could not be read: {error.error_string.removeprefix('Error : ')} "
            "Accepted is what libsndfile reads: WAV, MP3, FLAC, Ogg Vorbis, Opus, AIFF, CAF and others."
        ) from None
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate)
    return mono, frames / rate if frames < _UNKNOWN_FRAMES else None


class _Sound(soundfile.SoundFile):
    """A file read front to back: seeking after every block, as soundfile does, fails where no length is stated."""

    def seekable(self) -> bool:
        return False


class _Bytes(io.BytesIO):
    """Bytes in which the negative positions of damaged headers are the beginning, where libsndfile looks for them."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return super().seek(max(offset, 0) if whence == io.SEEK_SET else offset, whence)


class _OpenEnded(_Bytes):
    """A file that seems 40 times as long as it is; beyond its real end there is nothing but an empty ID3v1 tag.

    libsndfile takes the length of an MP3 without a Xing header from its size and its first frame's bit rate, and
    stops there even if a variable bit rate holds more. Bit rates lie between 8 and 320 kbit/s.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._end = 40 * len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            return super().seek(self._end + offset)
        return super().seek(offset, whence)

    def readinto(self, buffer: Buffer) -> int:
        if self.tell() < self._end - 128:
            return super().readinto(buffer)
        view = memoryview(buffer)
        view[:] = bytes(len(view))
        return len(view)


def _read_mono(sound: soundfile.SoundFile, max_seconds: float) -> npt.NDArray[np.float32]:
    """Samples ``[n]`` at the file's own rate, no more than ``max_seconds`` and the lookahead."""
    rate, channels = sound.samplerate, sound.channels
    if sound.format == "SDS":
        # libsndfile reads these past their end and prints two lines for every 60 samples that are not there.
        raise AudioError("MIDI sample dumps are not accepted")
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(f"sample rate {rate} Hz is out of range; allowed are {MIN_RATE} to {MAX_RATE} Hz")
    wanted = min(sound.frames, int((max_seconds + _LOOKAHEAD_SECONDS) * rate))
    allowed = min(wanted, MAX_VALUES // channels)
    parts = [np.zeros(0, np.float32)]
    done = 0
    while done < allowed:
        block = sound.read(min(allowed - done, max(1, _BLOCK_VALUES // channels)), dtype="float32", always_2d=True)
        if not len(block):
            break
        _check_samples(block)
        parts.append(block.mean(axis=1))
        done += len(block)
    if allowed < wanted and done == allowed:
        raise AudioError(
            f"audio clip with {channels} channels at {rate} Hz holds too many values; at most {MAX_VALUES} "
            "(frames times channels) are decoded"
        )
    return np.concatenate(parts)


def _check_samples(block: npt.NDArray[np.float32]) -> None:
    peak = np.abs(block).max()
    if not np.isfinite(peak):
        raise AudioError("audio clip holds NaN or infinite samples")
    if peak > MAX_AMPLITUDE:
        raise AudioError(
            f"audio clip holds a sample of {peak:.3g}; full scale is 1 and at most {MAX_AMPLITUDE:g} is allowed"
        )
