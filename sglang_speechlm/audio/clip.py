"""Decode a clip for the model: mono float32 samples at one rate, from any file that libsndfile or FFmpeg reads."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soxr

from sglang_speechlm.audio.av_sound import DEMUXERS
from sglang_speechlm.audio.decode import MAX_VALUES, UNKNOWN_FRAMES, Decoded, decode_pieces
from sglang_speechlm.audio.errors import AudioError
from sglang_speechlm.audio.files import split
from sglang_speechlm.audio.kinds import kind_of

MAX_FILES = 100
"""Maximum number of files in a clip of several joined end to end."""

MAX_AV_FILES = 10
"""Maximum number of such files that need a process each to be decoded."""

RAW_RATE = 24_000
"""Sample rate in Hz of samples without a header, as OpenAI's."""

_RAW = ("pcm", "pcm16")

# Read past the cut, so that the resampler's filter has sound there and longer clips are recognised as longer.
_LOOKAHEAD_SECONDS = 0.1


@dataclass(frozen=True, eq=False)
class Clip:
    """Mono samples, with warnings about how they were decoded.

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

    As much as possible is decoded: files joined end to end, and everything before damage or a missing end. Work and
    memory are bounded by ``max_seconds``, ``MAX_RATE``, ``MAX_VALUES`` and ``MAX_FILES``, whatever a header claims.
    Mono at ``sample_rate`` is returned bit for bit as libsndfile decodes it. Other rates are resampled by soxr, which
    librosa uses too and which supports any ratio, while a polyphase filter grows with the terms of the ratio.

    Args:
        data: a complete file, or several joined.
        format: the client's name for the format. The content decides, so this only appears in error messages, except
            for "pcm" and "pcm16": 16-bit little-endian mono samples at ``RAW_RATE``, unless there is a file header.
        sample_rate: of the result, in Hz.
        max_seconds: maximum length of the result.

    Raises:
        AudioError: if the data is empty, unreadable, without samples, a MIDI sample dump, or holds NaN, infinite or
            absurdly large samples, or if its rate or number of values is out of range.
    """
    if not data:
        raise AudioError("audio data is empty")
    files = []
    seconds = max_seconds + _LOOKAHEAD_SECONDS
    with contextlib.closing(decode_joined(data, format, seconds)) as pieces:
        for _, decoded in pieces:
            files.append(decoded)
            seconds -= len(decoded.samples) / decoded.rate
            if seconds <= _LOOKAHEAD_SECONDS / 2:
                break
    samples = np.concatenate(
        [
            file.samples if file.rate == sample_rate else soxr.resample(file.samples, file.rate, sample_rate)
            for file in files
        ]
    )
    warnings = tuple(warning for file in files for warning in file.warnings)
    if not len(samples):
        raise AudioError("; ".join(("audio clip has no samples", *warnings)))
    limit = round(max_seconds * sample_rate)
    if len(samples) > limit:
        samples = samples[:limit].copy()
        warnings += (f"audio clip of {_stated_length(files, max_seconds)} was cut to {max_seconds:g} s",)
    return Clip(samples, sample_rate, warnings)


def decode_joined(data: bytes, format: str | None, seconds: float) -> Generator[tuple[int, Decoded]]:
    """Decode a file, or several joined, in pieces of at most ``seconds``; yield each with the number of its file.

    Work and memory for a piece are bounded by ``seconds``, ``MAX_RATE`` and ``MAX_VALUES``, whatever a header claims.

    Args:
        data: a complete file, or several joined.
        format: as for ``decode_clip``.
        seconds: maximum length of a piece.

    Raises:
        AudioError: as for ``decode_clip``, except for data without samples.
    """
    if not data:
        raise AudioError("audio data is empty")
    declared = (format or "").lower()
    if declared in _RAW and not _has_header(data):
        for piece in _decode_raw(data, seconds):
            yield 0, piece
        return
    av_files = 0
    for number, file in enumerate(split(data)):
        av_files += file.kind in DEMUXERS
        try:
            if number == MAX_FILES:
                raise AudioError(f"the limit is {MAX_FILES} files")
            if av_files > MAX_AV_FILES:
                raise AudioError(f"the limit is {MAX_AV_FILES} files of this kind")
            with contextlib.closing(decode_pieces(file, declared, seconds, MAX_VALUES)) as pieces:
                for piece in pieces:
                    yield number, piece
        except AudioError as error:
            if number == 0:
                raise
            warning = f"the joined files after file {number} were not heard: {error}"
            yield number, Decoded(np.zeros(0, np.float32), RAW_RATE, 0, 0, (warning,))
            return


def _has_header(data: bytes) -> bool:
    """Return whether data has a file header; quiet raw samples may look like the start of an MP3 or AAC frame."""
    return kind_of(data) not in (None, "MP3", "AAC")


def _decode_raw(data: bytes, seconds: float) -> Iterator[Decoded]:
    frames, step = len(data) // 2, int(seconds * RAW_RATE)
    warnings = ("the last byte is half a sample and was ignored",) if len(data) % 2 else ()
    for start in range(0, max(1, frames), step):
        count = min(step, frames - start)
        samples = np.frombuffer(data, "<i2", count, 2 * start).astype(np.float32) / np.float32(32768)
        yield Decoded(samples, RAW_RATE, count, frames, warnings)
        warnings = ()


def _stated_length(files: list[Decoded], max_seconds: float) -> str:
    """Return the length of a clip that is too long, exact only if a single header states it."""
    if len(files) > 1 or files[0].stated_frames == UNKNOWN_FRAMES:
        return f"more than {max_seconds:g} s"
    return f"{files[0].stated_frames / files[0].rate:.1f} s"
