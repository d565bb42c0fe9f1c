"""Decode one audio file to mono samples at its own rate, with libsndfile or FFmpeg's libraries."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import soundfile

from sglang_speechlm.audio.av_sound import DEMUXERS, AvError, AvSound
from sglang_speechlm.audio.errors import AudioError
from sglang_speechlm.audio.files import IGNORED_BYTES, File, sound_start
from sglang_speechlm.audio.kinds import ACCEPTED, unread_kind_of
from sglang_speechlm.audio.sndfile import SndfileSound

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


_UNREADABLE = (soundfile.LibsndfileError, AvError)


def decode_pieces(file: File, declared: str, seconds: float, values: int) -> Generator[Decoded]:
    """Decode a file and mix it down to the mean of the channels. Yield at least one piece; only the last is shorter
    than ``seconds``.

    Everything before damage, or a missing end, is kept. Channels that cancel each other out, such as a pair with one
    inverted, are not mixed: the loudest is used, from that piece on. Floating-point samples with integer values are
    scaled.

    Args:
        file: the file.
        declared: the client's name for its format, for messages.
        seconds: length of a piece.
        values: maximum values (frames times channels) in a piece.

    Raises:
        AudioError: if it is unreadable, damaged before its first sample, a MIDI sample dump, or holds NaN, infinite or
            absurdly large samples, or if its rate or number of values is out of range.
    """
    frames, channel, bits = 0, None, 0
    warnings = list(file.warnings)
    with contextlib.ExitStack() as opened:
        sound = opened.enter_context(_open(file, declared))
        if sound.tracks > 1:
            warnings.append(f"the file has {sound.tracks} audio tracks: only the first was heard")
        is_last = False
        while not is_last:
            mix = _read(sound, frames, seconds, values, channel)
            if channel is None and mix.cancels:
                channel = mix.loudest
                opened.close()
                sound = opened.enter_context(_open(file, declared))
                _skip(sound, frames)
                mix = _read(sound, frames, seconds, values, channel)
                warnings.append(f"the channels cancel each other out: only channel {channel + 1} was heard")
            if mix.peak > _LOUD and not bits:
                bits = next(bits for bits in (16, 24, 32) if mix.peak <= 2 ** (bits - 1))
                warnings.append(
                    f"samples reach {mix.peak:.6g}, but full scale is 1: they were read as {bits}-bit integers"
                )
            frames += len(mix.samples)
            is_last = not mix.is_cut
            if is_last:
                warnings += _end_warnings(file, sound, frames, mix.is_damaged)
            yield Decoded(
                samples=mix.samples / np.float32(2 ** (bits - 1)) if bits else mix.samples,
                rate=sound.samplerate,
                values=len(mix.samples) * sound.channels,
                stated_frames=sound.frames if sound.states_frames else UNKNOWN_FRAMES,
                warnings=tuple(warnings),
            )
            warnings = []


def _open(file: File, declared: str) -> SndfileSound | AvSound:
    """Open a file.

    Raises:
        AudioError: if it is unreadable, a MIDI sample dump, or if its rate is out of range.
    """
    try:
        sound = AvSound(file.data, file.kind) if file.kind in DEMUXERS else SndfileSound(file)
    except _UNREADABLE:
        raise AudioError(_unreadable(file, declared)) from None
    try:
        if sound.format == "SDS":
            # libsndfile reads these past their end and prints two lines for every 60 missing samples.
            raise AudioError("MIDI sample dumps are not accepted")
        if not MIN_RATE <= sound.samplerate <= MAX_RATE:
            raise AudioError(f"sample rate {sound.samplerate} Hz is out of range; allowed: {MIN_RATE} to {MAX_RATE} Hz")
    except AudioError:
        sound.close()
        raise
    return sound


@dataclass(frozen=True, eq=False)
class _Mix:
    """The result of one pass over a file.

    Attributes:
        samples: float32 ``[n]``, of all channels or of one.
        peak: the largest magnitude of any channel.
        loudest: the channel with the most energy, from 0.
        cancels: whether the channels cancel each other out in their mean.
        is_damaged: whether reading ended in an error.
        is_cut: whether the file may have more than was read.
    """

    samples: npt.NDArray[np.float32]
    peak: float
    loudest: int
    cancels: bool
    is_damaged: bool
    is_cut: bool


def _read(sound: SndfileSound | AvSound, before: int, seconds: float, values: int, channel: int | None) -> _Mix:
    """Read at most ``seconds`` of the mean of the channels, or of one of them, after ``before`` frames.

    Raises:
        AudioError: as for ``decode_pieces``.
    """
    rate, channels = sound.samplerate, sound.channels
    wanted = min(sound.frames - before, int(seconds * rate))
    allowed = min(wanted, values // channels)
    parts = [np.zeros(0, np.float32)]
    energies, energy_of_sum, peak = np.zeros(channels), 0.0, 0.0
    done, is_damaged = 0, False
    while done < allowed:
        try:
            block = sound.read(min(allowed - done, _block_frames(sound)), dtype="float32", always_2d=True)
        except _UNREADABLE:
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
            f"audio clip with {channels} channels at {rate} Hz has too many values (frames times channels)"
        )
    loudest = int(energies.argmax())
    return _Mix(
        samples=np.concatenate(parts),
        peak=peak,
        loudest=loudest,
        cancels=energy_of_sum < _CANCELLED**2 * energies[loudest],
        is_damaged=is_damaged,
        is_cut=done == int(seconds * rate),
    )


def _block_frames(sound: SndfileSound | AvSound) -> int:
    return max(1, min(int(sound.samplerate * _BLOCK_SECONDS), _BLOCK_VALUES // sound.channels))


def _skip(sound: SndfileSound | AvSound, frames: int) -> None:
    """Read and discard frames."""
    while frames and (block := sound.read(min(frames, _block_frames(sound)), dtype="float32", always_2d=True)).size:
        frames -= len(block)


def _end_warnings(file: File, sound: SndfileSound | AvSound, frames: int, is_damaged: bool) -> Generator[str]:
    """Yield warnings about the end of a file, after ``frames`` were read.

    Raises:
        AudioError: if there is no sound before the damage.
    """
    slack = _MP3_SLACK if sound.format == "MP3" else 0
    is_checked = sound.states_frames and sound.format in ("MP3", "FLAC", "CAF")
    if is_damaged or file.is_cut or (is_checked and frames + slack < sound.frames):
        if not frames:
            raise AudioError("audio file is damaged or cut off before its first sample")
        length = frames / sound.samplerate
        yield f"the file is damaged or cut off after {length:.2f} s: only the sound before that was heard"
    elif sound.format in ("MP3", "FLAC") and sound.unread > IGNORED_BYTES:
        yield f"at least {sound.unread} bytes after the end of the sound were ignored"


def _checked_peak(block: npt.NDArray[np.float32]) -> float:
    peak = float(np.abs(block).max())
    if not np.isfinite(peak):
        raise AudioError("audio clip contains NaN or infinite samples")
    if peak > MAX_AMPLITUDE:
        raise AudioError(f"audio clip contains a sample of {peak:.3g}; full scale is 1, or that of 32-bit integers")
    return peak


def _unreadable(file: File, declared: str) -> str:
    declaration = f" (declared as {declared[:20]!r})" if declared else ""
    if file.kind in DEMUXERS and find_spec("av") is None:
        reason = f"{file.kind} needs the package av, which is not installed on this server"
    elif (unread := unread_kind_of(file.data[sound_start(file.data) :])) is not None:
        reason = f"{unread} is not supported"
    elif file.kind is not None:
        reason = f"it begins as {file.kind}, and is damaged, cut off, or in an unsupported encoding"
    else:
        reason = "it is not an audio file"
    return f"audio data{declaration} could not be read: {reason}. Accepted formats: {ACCEPTED}."
