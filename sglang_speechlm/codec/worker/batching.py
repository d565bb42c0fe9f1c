"""The codec process's streams, and which of their windows share the next decode."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from sglang_speechlm.codec.pcm import PcmStream
from sglang_speechlm.codec.wav import Samples
from sglang_speechlm.codec.windows import Context, PiecePolicy, Window, WindowPlanner


class Slot:
    """One stream in the codec process: its codes so far, and its number of unread pieces."""

    def __init__(self, planner: WindowPlanner, undelivered_limit: int, pcm: PcmStream | None, num_stream: int) -> None:
        self._planner = planner
        self._pcm = pcm
        self._undelivered_limit = undelivered_limit
        self._undelivered = 0
        self._codes = np.empty((0, num_stream), dtype=np.int64)
        self._first = 0  # index in the stream of the first row of _codes

    @property
    def done(self) -> bool:
        """Whether the stream has ended and its last window has been taken."""
        return self._planner.done

    def push(self, codes: npt.NDArray[np.integer]) -> None:
        """Append ``[n, S]`` codes, and drop those that no window needs any more."""
        keep_from = self._planner.keep_from
        self._codes = np.concatenate([self._codes[keep_from - self._first :], codes])
        self._first = keep_from
        self._planner.push(len(codes))

    def finish(self) -> None:
        """Declare the end of the codes."""
        self._planner.finish()

    def delivered(self) -> None:
        """Count a piece that the reader took."""
        self._undelivered -= 1

    def peek(self) -> Window | None:
        """Return the next window to decode; None if there is none, or if the reader has too many unread pieces."""
        if self._undelivered == self._undelivered_limit:
            return None
        return self._planner.peek()

    def take(self, window: Window) -> npt.NDArray[np.int64]:
        """Take the window that ``peek`` returned for decoding; return its ``[window.length, S]`` codes."""
        self._planner.advance(window)
        self._undelivered += 1
        return self._codes[window.start - self._first : window.stop - self._first]

    def sound(self, samples: npt.NDArray[np.float32]) -> Samples:
        """Return the next piece of the stream's sound, after the next decoded samples."""
        return samples if self._pcm is None else self._pcm.push(samples)

    def rest(self) -> Samples:
        """Return the last piece of the stream's sound, which may be empty."""
        nothing = np.empty(0, np.float32)
        return nothing if self._pcm is None else self._pcm.push(nothing, is_last=True)


class SlotTable:
    """All streams of the codec process.

    Args:
        context: of the codec's decoder.
        policy: the sizes of pieces.
        num_stream: codes per frame.
        codebook_size: codes are below this.
    """

    def __init__(self, context: Context, policy: PiecePolicy, num_stream: int, codebook_size: int) -> None:
        self._context = context
        self._policy = policy
        self._num_stream = num_stream
        self._codebook_size = codebook_size
        self._slots: dict[int, Slot] = {}
        self._turns: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, stream: int) -> bool:
        return stream in self._slots

    def open(self, stream: int, undelivered_limit: int, pcm: PcmStream | None = None) -> None:
        """Add a stream, of which at most ``undelivered_limit`` pieces may be unread.

        Its sound passes ``pcm``, if given.
        """
        planner = WindowPlanner(self._context, self._policy)
        self._slots[stream] = Slot(planner, undelivered_limit, pcm, self._num_stream)
        self._turns.append(stream)

    def push(self, stream: int, codes: npt.NDArray[np.integer]) -> None:
        """Append ``[n, S]`` codes to a stream.

        Raises:
            ValueError: for another shape or type, or a code outside the codebook; the stream is unchanged.
        """
        if codes.ndim != 2 or codes.shape[1] != self._num_stream or not np.issubdtype(codes.dtype, np.integer):
            raise ValueError(
                f"codes must be integers of shape [n, {self._num_stream}]; got {codes.dtype} {list(codes.shape)}"
            )
        outside = (codes < 0) | (codes >= self._codebook_size)
        if outside.any():
            t, s = np.argwhere(outside)[0]
            raise ValueError(f"code {codes[t, s]} of stream {s} is outside 0..{self._codebook_size - 1}")
        self._slots[stream].push(codes)

    def finish(self, stream: int) -> None:
        """Declare the end of a stream's codes."""
        self._slots[stream].finish()

    def delivered(self, stream: int) -> None:
        """Count a piece that the reader of a stream took."""
        self._slots[stream].delivered()

    def sound(self, stream: int, samples: npt.NDArray[np.float32]) -> Samples:
        """Return the next piece of a stream's sound, after its next decoded samples; an empty one is not delivered."""
        sound = self._slots[stream].sound(samples)
        if not len(sound):
            self.delivered(stream)
        return sound

    def close(self, stream: int) -> None:
        """Drop a stream."""
        del self._slots[stream]
        self._turns.remove(stream)

    def pop_done(self) -> list[tuple[int, Samples]]:
        """Drop the streams that are done, and return them, each with the rest of its sound."""
        done = [(stream, slot.rest()) for stream, slot in self._slots.items() if slot.done]
        for stream, _ in done:
            self.close(stream)
        return done

    def next_batch(self, code_limit: int) -> list[tuple[int, Window, npt.NDArray[np.int64]]]:
        """Take windows of one length, at most ``code_limit`` codes in total (but at least one window).

        Each comes with its stream and codes. The stream that has waited longest decides the length, so none starves. A
        second window of a stream is taken only after every other stream has had its turn.
        """
        batch: list[tuple[int, Window, npt.NDArray[np.int64]]] = []
        limit = 1
        while len(batch) < limit:
            before = len(batch)
            for stream in list(self._turns):
                window = self._slots[stream].peek()
                if window is None or (batch and window.length != batch[0][1].length):
                    continue
                if not batch:
                    limit = max(1, code_limit // window.length)
                batch.append((stream, window, self._slots[stream].take(window)))
                self._turns.remove(stream)
                self._turns.append(stream)
                if len(batch) == limit:
                    break
            if len(batch) == before:
                break
        return batch
