"""Cut a recording of any length into windows that the model can hear, at silences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]

_FRAME_SECONDS = 0.02
"""The frame over which a level is measured."""
_SILENT = 5e-4
"""The level (root mean square; full scale is 1) below which nothing is audible: -66 dB, far below a whisper."""
_QUIET = 0.01
"""The level of a pause, relative to the loudest frame of its window: 40 dB below."""
_MARGIN_SECONDS = 0.2
"""The part of a pause that is kept before and after speech."""
_LULL_SECONDS = 0.3
"""A window without a pause is cut in the middle of the quietest stretch of this length in its second half."""
_LONG_PAUSE_SECONDS = 2.0
"""Silence of this length ends a window, unless the whole recording fits into one."""
_SHORTEST_SECONDS = 0.5
"""Shorter windows are padded with silence, because models need a minimum length."""


@dataclass(frozen=True, eq=False)
class Window:
    """A stretch of a recording.

    Attributes:
        samples: float32 ``[n]``.
        start, end: in seconds from the recording's beginning.
    """

    samples: Samples
    start: float
    end: float


def cut(pieces: Iterable[Samples], rate: int, longest: float, pause: float | None = None) -> Iterator[Window]:
    """Yield the windows of a recording; see ``cut_stepwise``."""
    return (window for window in cut_stepwise(pieces, rate, longest, pause) if window is not None)


def cut_stepwise(
    pieces: Iterable[Samples], rate: int, longest: float, pause: float | None = None
) -> Iterator[Window | None]:
    """Yield the windows of a recording that arrives in pieces; at most a window and two pieces are in memory.

    Also yield None after each piece: hours of silence yield no window, and the caller may want to stop meanwhile.

    Windows do not overlap, and only silence lies between them. Without ``pause``, a recording that is no longer than
    one window is left unchanged; a longer one is cut at silences, or else where it is quietest. With ``pause``, a
    window also ends at each pause of that length, for models that were trained with single sentences.

    Args:
        pieces: float32 ``[n]`` each; joined, they are the recording.
        rate: in Hz.
        longest: maximum seconds of a window.
        pause: seconds of a pause that ends a window.
    """
    frame = round(_FRAME_SECONDS * rate)
    limit = int(longest * rate) // frame
    recording = _Held(pieces)
    yield from recording.fill(limit * frame + 1)
    if pause is None and len(recording.samples) <= limit * frame:
        if len(recording.samples):
            yield Window(recording.samples, 0.0, len(recording.samples) / rate)
        return
    least = round((pause or _LONG_PAUSE_SECONDS) / _FRAME_SECONDS)
    margin = min(round(_MARGIN_SECONDS / _FRAME_SECONDS), least)
    while True:
        yield from recording.fill((limit + limit // 4) * frame)
        samples = recording.samples[: limit * frame]
        is_last = len(samples) == len(recording.samples)
        levels = _levels(samples, frame)
        threshold = _SILENT if pause is None or not len(levels) else max(_SILENT, _QUIET * levels.max())
        loud = np.flatnonzero(levels >= threshold)
        if not len(loud):
            if is_last:
                return
            recording.drop((limit - margin) * frame)
            continue
        if (skipped := int(loud[0]) - margin) > 0:
            recording.drop(skipped * frame)
            continue
        gaps = np.diff(loud) - 1
        if (pauses := np.flatnonzero(gaps >= least)).size:
            end = int(loud[pauses[0]]) + 1 + margin
        elif is_last or len(levels) - 1 - loud[-1] >= least:
            end = int(loud[-1]) + 1 + margin
        else:
            end = _lull(levels, min(limit, len(recording.samples) // frame - limit // 4))
        samples = samples[: end * frame]
        start = recording.start / rate
        yield Window(_filled(samples, round(_SHORTEST_SECONDS * rate)), start, start + len(samples) / rate)
        recording.drop(len(samples))


class _Held:
    """The part of a recording that is in memory.

    Attributes:
        samples: float32 ``[n]``.
        start: number of samples before them.
    """

    def __init__(self, pieces: Iterable[Samples]) -> None:
        self.samples: Samples = np.zeros(0, np.float32)
        self.start = 0
        self._pieces = iter(pieces)

    def fill(self, count: int) -> Iterator[None]:
        """Read until there are ``count`` samples, or the recording ends; yield after each piece."""
        parts, held = [self.samples], len(self.samples)
        while held < count and (piece := next(self._pieces, None)) is not None:
            parts.append(piece)
            held += len(piece)
            yield
        self.samples = np.concatenate(parts)

    def drop(self, count: int) -> None:
        """Discard the first ``count`` samples."""
        self.start += count
        self.samples = self.samples[count:]


def _levels(samples: Samples, frame: int) -> npt.NDArray[np.float64]:
    """Return the root mean square of each frame; the last one is padded with silence."""
    frames = np.zeros(-(-len(samples) // frame) * frame, np.float32)
    frames[: len(samples)] = samples
    return np.asarray(np.sqrt(np.mean(np.square(frames.reshape(-1, frame), dtype=np.float64), axis=1)))


def _lull(levels: npt.NDArray[np.float64], end: int) -> int:
    """Return the middle frame of the last of the quietest stretches between the half and the frame ``end``."""
    length = round(_LULL_SECONDS / _FRAME_SECONDS)
    begin = len(levels) // 2
    means = np.convolve(levels[begin:end], np.full(length, 1 / length), "valid")
    quiet = np.flatnonzero(means <= 2 * means.min() + _SILENT)
    run_begins = np.flatnonzero(np.diff(quiet, prepend=-2) > 1)[-1]
    return int(begin + (quiet[run_begins] + quiet[-1] + length) // 2)


def _filled(samples: Samples, least: int) -> Samples:
    return np.pad(samples, (0, max(0, least - len(samples))))
