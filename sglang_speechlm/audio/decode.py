"""Decode one audio file to mono samples at its own rate, with libsndfile."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import soundfile

from sglang_speechlm.audio.errors import AudioError
from sglang_speechlm.audio.files import IGNORED_BYTES, File, has_frame_count, sound_start
from sglang_speechlm.audio.kinds import ACCEPTED, unread_kind_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

MIN_RATE, MAX_RATE = 1_000, 768_000
"""Allowed sample rates of a file, in Hz."""

MAX_AMPLITUDE = 2.0**31
"""Largest allowed sample of a floating-point file; full scale should be 1, but some files have integer values."""

MAX_VALUES = 1 << 26
"""Maximum values (frames times channels) decoded for one clip: 30 s at 48 kHz may have 46 channels."""

UNKNOWN_FRAMES = 2**63 - 1
"""libsndfile's SF_COUNT_MAX, which it returns if a header states no length."""

_BLOCK_SECONDS = 0.05
_BLOCK_VALUES = 1 << 18
"""Values decoded at once; in a damaged file, the part of the block before the damage is lost."""

_LOUD = 32.0
"""No recording is 30 dB above full scale: floating-point samples beyond this have integer values."""

_CANCELLED = 0.1
"""Channels cancel each other out if their sum has less than this share of the loudest channel's amplitude."""

_MP3_SLACK = 2 * 1152
"""Maximum error, in frames, of the count in an MP3's header."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """A decoded file.

    Attributes:
        samples: float32 ``[n]``; full scale is 1.
        rate: in Hz.
        values: number of decoded values (frames times channels).
        stated_frames: the header's number of frames; ``UNKNOWN_FRAMES`` if it has none.
        warnings: what was not heard, or was changed.
    """

    samples: npt.NDArray[np.float32]
    rate: int
    values: int
    stated_frames: int
    warnings: tuple[str, ...] = ()


def decode_file(file: File, declared: str, seconds: float, values: int) -> Decoded:
    """Decode and mix down to the mean of the channels. Everything before damage, or a missing end, is kept.

    Channels that cancel each other out, such as a pair with one inverted, are not mixed: the loudest is used.
    Floating-point samples with integer values are scaled.

    Args:
        file: the file.
        declared: the client's name for its format, for messages.
        seconds: maximum seconds to decode.
        values: maximum values (frames times channels) to decode.

    Raises:
        AudioError: if it is unreadable, damaged before its first sample, a MIDI sample dump, or holds NaN, infinite or
            absurdly large samples, or if its rate or number of values is out of range.
    """
    try:
        stream = _Bytes(file.data)
        with _Sound(stream) as sound:
            mix = _read(sound, seconds, values)
        states_frames = mix.stated_frames < UNKNOWN_FRAMES and (mix.format != "MP3" or has_frame_count(file.data))
        unread = len(file.data) - stream.tell()
        if mix.format == "MP3" and not states_frames and unread > 0 and not mix.is_cut:
            stream = _OpenEnded(file.data)
            with _Sound(stream) as sound:
                mix = _read(sound, seconds, values)
            unread = 0
        channel = mix.loudest if mix.cancels else None
        if channel is not None:
            stream.seek(0)
            with _Sound(stream) as sound:
                mix = _read(sound, seconds, values, channel)
    except soundfile.LibsndfileError:
        raise AudioError(_unreadable(file, declared)) from None
    frames = len(mix.samples)
    warnings = list(file.warnings)
    slack = _MP3_SLACK if mix.format == "MP3" else 0
    ends_early = states_frames and mix.format in ("MP3", "FLAC", "CAF") and frames + slack < mix.stated_frames
    if not mix.is_cut and (mix.is_damaged or file.is_cut or ends_early):
        if not frames:
            raise AudioError("audio file is damaged or cut off before its first sample")
        warnings.append(
            f"the file is damaged or cut off after {frames / mix.rate:.2f} s: only the sound before that was heard"
        )
    elif not mix.is_cut and mix.format in ("MP3", "FLAC") and unread > IGNORED_BYTES:
        warnings.append(f"at least {unread} bytes after the end of the sound were ignored")
    if channel is not None:
        warnings.append(f"the channels cancel each other out: only channel {channel + 1} was heard")
    samples = mix.samples
    if mix.peak > _LOUD:
        bits = next(bits for bits in (16, 24, 32) if mix.peak <= 2 ** (bits - 1))
        samples = samples / np.float32(2 ** (bits - 1))
        warnings.append(f"samples reach {mix.peak:.6g}, but full scale is 1: they were read as {bits}-bit integers")
    stated = mix.stated_frames if states_frames else UNKNOWN_FRAMES
    return Decoded(samples, mix.rate, frames * mix.channels, stated, tuple(warnings))


@dataclass(frozen=True, eq=False)
class _Mix:
    """The result of one pass over a file.

    Attributes:
        samples: float32 ``[n]``, of all channels or of one.
        rate, channels, stated_frames, format: from the header.
        peak: the largest magnitude of any channel.
        loudest: the channel with the most energy, from 0.
        cancels: whether the channels cancel each other out in their mean.
        is_damaged: whether reading ended in an error.
        is_cut: whether the file has more than was read.
    """

    samples: npt.NDArray[np.float32]
    rate: int
    channels: int
    stated_frames: int
    format: str
    peak: float
    loudest: int
    cancels: bool
    is_damaged: bool
    is_cut: bool


def _read(sound: soundfile.SoundFile, seconds: float, values: int, channel: int | None = None) -> _Mix:
    """Read at most ``seconds`` of the mean of the channels, or of one of them.

    Raises:
        AudioError: as for ``decode_file``.
    """
    rate, channels = sound.samplerate, sound.channels
    if sound.format == "SDS":
        # libsndfile reads these past their end and prints two lines for every 60 missing samples.
        raise AudioError("MIDI sample dumps are not accepted")
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(f"sample rate {rate} Hz is out of range; allowed are {MIN_RATE} to {MAX_RATE} Hz")
    wanted = min(sound.frames, int(seconds * rate))
    allowed = min(wanted, values // channels)
    parts = [np.zeros(0, np.float32)]
    energies, energy_of_sum, peak = np.zeros(channels), 0.0, 0.0
    block_frames = max(1, min(int(rate * _BLOCK_SECONDS), _BLOCK_VALUES // channels))
    done, is_damaged = 0, False
    while done < allowed:
        try:
            block = sound.read(min(allowed - done, block_frames), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            is_damaged = True
            break
        if not len(block):
            break
        peak = max(peak, _checked_peak(block))
        mean = block.mean(axis=1)
        energies += np.einsum("ij,ij->j", block, block)
        energy_of_sum += float(mean @ mean) * channels**2
        parts.append(mean if channel is None else block[:, channel].copy())
        done += len(block)
    if allowed < wanted and done == allowed:
        raise AudioError(
            f"audio clip with {channels} channels at {rate} Hz holds too many values (frames times channels)"
        )
    loudest = int(energies.argmax())
    return _Mix(
        samples=np.concatenate(parts),
        rate=rate,
        channels=channels,
        stated_frames=sound.frames,
        format=sound.format,
        peak=peak,
        loudest=loudest,
        cancels=energy_of_sum < _CANCELLED**2 * energies[loudest],
        is_damaged=is_damaged,
        is_cut=done == int(seconds * rate),
    )


def _checked_peak(block: npt.NDArray[np.float32]) -> float:
    peak = float(np.abs(block).max())
    if not np.isfinite(peak):
        raise AudioError("audio clip holds NaN or infinite samples")
    if peak > MAX_AMPLITUDE:
        raise AudioError(f"audio clip holds a sample of {peak:.3g}; full scale is 1, or that of 32-bit integers")
    return peak


def _unreadable(file: File, declared: str) -> str:
    declaration = f" (declared as {declared[:20]!r})" if declared else ""
    if (unread := unread_kind_of(file.data[sound_start(file.data) :])) is not None:
        reason = f"{unread} is not supported"
    elif file.kind is not None:
        reason = f"it begins as {file.kind}, and is damaged, cut off, or in an unsupported encoding"
    else:
        reason = "it is not an audio file"
    return f"audio data{declaration} could not be read: {reason}. Accepted are {ACCEPTED}."


class _Sound(soundfile.SoundFile):
    """A file that is read front to back: soundfile's seek after every block fails if no length is stated."""

    def seekable(self) -> bool:
        return False


class _Bytes(io.BytesIO):
    """Bytes in which the negative positions of damaged headers mean the beginning, as libsndfile expects."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return super().seek(max(offset, 0) if whence == io.SEEK_SET else offset, whence)


class _OpenEnded(_Bytes):
    """A file that appears 40 times as long as it is; beyond its real end there is only an empty ID3v1 tag.

    libsndfile estimates the length of an MP3 without a Xing header from its size and its first frame's bit rate, and
    stops there even if a variable bit rate makes it longer. Bit rates range from 8 to 320 kbit/s.
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
