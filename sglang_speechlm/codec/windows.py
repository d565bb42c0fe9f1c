"""Plan which slices of an answer's codes are decoded, and which part of each slice is emitted.

The codec's decoder is convolutional: a sample depends on a bounded number of codes to its left and right. A slice
with that much context beyond the emitted part yields exactly the samples of a whole decode. At the true ends, the
decoder itself pads with zeros, so only a slice at a true end may lack context there: every slice consists of real
codes only. A whole file is a stream whose codes are all available at once.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Context:
    """The numbers of codes before and after the emitted ones on which the emitted samples depend."""

    left: int
    right: int


@dataclass(frozen=True)
class PiecePolicy:
    """How many codes a piece of a stream has (20 ms each in the released model).

    Piece ``k`` is emitted as soon as ``ramp[k]`` codes can be emitted (the last entry repeats). Pieces are small at
    first, so that the first sound leaves early, then larger, because each piece also costs a decode of its context.
    If more can be emitted by the time the decoder is free, a piece grows to the next size of ``sizes``, so that a
    decoder that falls behind automatically gets cheaper pieces. With the default ramp, a client that starts to play
    at the first piece never waits if codes arrive at 1.25 times real time or faster, plus the decoding time.

    There are few sizes, so that windows of several streams have equal lengths and share a decode.

    Raises:
        ValueError: if the ramp is empty or a size is below 1 or above ``largest``.
    """

    ramp: tuple[int, ...] = (8, 8, 8, 8, 16, 16, 16, 16, 32)
    largest: int = 128

    def __post_init__(self) -> None:
        if not self.ramp or not all(1 <= size <= self.largest for size in self.ramp):
            raise ValueError(f"ramp must contain sizes in 1..largest ({self.largest}); got {self.ramp}")

    @property
    def sizes(self) -> tuple[int, ...]:
        """All sizes of pieces, in ascending order."""
        return tuple(sorted({*self.ramp, self.largest}))

    def smallest(self, piece: int) -> int:
        """Return the minimum number of codes for emitting piece number ``piece`` before the end of the stream."""
        return self.ramp[min(piece, len(self.ramp) - 1)]

    def completed_by(self, lag: int) -> tuple[int, ...]:
        """Return how many more frames complete each piece, if codes lag by ``lag`` frames; the last number repeats."""
        return (lag + self.ramp[0], *self.ramp[1:], self.ramp[-1])


@dataclass(frozen=True)
class Window:
    """Decode codes ``[start, stop)`` and emit the samples of codes ``[emit_start, emit_stop)``."""

    start: int
    stop: int
    emit_start: int
    emit_stop: int

    @property
    def length(self) -> int:
        """Number of codes in the window."""
        return self.stop - self.start


class WindowPlanner:
    """Plans the windows of one stream. Pure: it knows how many codes there are, but not their values or times."""

    def __init__(self, context: Context, policy: PiecePolicy) -> None:
        self._context = context
        self._policy = policy
        self._lengths = [context.left + size + context.right for size in policy.sizes]
        self._available = 0
        self._emitted = 0
        self._pieces = 0
        self._final = False

    @property
    def done(self) -> bool:
        """Whether the stream has ended and has been emitted completely."""
        return self._final and self._emitted == self._available

    @property
    def keep_from(self) -> int:
        """No later window starts before this code."""
        return max(0, self._emitted - self._lengths[-1])

    def push(self, count: int) -> None:
        """Add ``count`` codes."""
        self._available += count

    def finish(self) -> None:
        """Declare the end of the codes."""
        self._final = True

    def peek(self) -> Window | None:
        """Return the next window to decode; None if nothing, or less than the policy's minimum, can be emitted."""
        left = max(0, self._emitted - self._context.left)
        if self._final:
            if self.done:
                return None
            stop = min(self._available, left + self._lengths[-1])
            emit_stop = stop if stop == self._available else stop - self._context.right
        else:
            ready = self._available - self._context.right - self._emitted
            if ready < self._policy.smallest(self._pieces):
                return None
            emit_stop = self._emitted + max(size for size in self._policy.sizes if size <= ready)
            stop = emit_stop + self._context.right
        # Extra context on the left, if available, gives the window a length that other streams have too.
        length = next(length for length in self._lengths if length >= stop - left)
        return Window(max(0, stop - length), stop, self._emitted, emit_stop)

    def advance(self, window: Window) -> None:
        """Mark ``window``, returned by ``peek``, as being decoded; the next window continues at its end."""
        self._emitted = window.emit_stop
        self._pieces += 1
