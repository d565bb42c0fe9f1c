"""Changes the speed of speech and keeps its pitch."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

SLOWEST, FASTEST = 0.25, 4.0
"""OpenAI's range of speeds."""


class Tempo:
    """Time-stretches sound in a stream with FFmpeg's atempo, which overlaps windows where they match best (WSOLA).

    The joined output does not depend on how the input was split into pieces.
    """

    def __init__(self, sample_rate: int, speed: float) -> None:
        """Take the sample rate in Hz and the speed, a factor from ``SLOWEST`` to ``FASTEST``."""
        self._rate, self._speed = sample_rate, speed
        self._block = sample_rate // 10
        self._held = np.empty(0, np.float32)
        self._taken = self._given = 0

    def push(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the output that is now final: float32 [n] in, [m] out."""
        self._taken += len(samples)
        return self._stretched(samples)

    def flush(self) -> npt.NDArray[np.float32]:
        """Return the rest of the output, float32 [m], at the end of the input."""
        missing = round(self._taken / self._speed) - self._given
        # The filter holds back its last windows: silence pushes them out.
        silence = np.zeros(3 * self._block * max(1, round(self._speed)), np.float32)
        return self._stretched(silence)[: max(missing, 0)]

    def _stretched(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        import av

        self._held = np.concatenate([self._held, samples])
        pieces = [np.empty(0, np.float32)]
        # In blocks: given less than its first window, the filter would start with that, and the split would be audible.
        while len(self._held) >= self._block:
            frame = av.AudioFrame.from_ndarray(self._held[None, : self._block], format="flt", layout="mono")
            frame.sample_rate = self._rate
            self._held = self._held[self._block :]
            self._graph.push(frame)
            with contextlib.suppress(av.BlockingIOError):
                while True:
                    pieces.append(self._graph.pull().to_ndarray()[0])
        stretched = np.concatenate(pieces)
        self._given += len(stretched)
        return stretched

    @cached_property
    def _graph(self) -> Any:
        import av.filter  # loads all of FFmpeg's libraries, so only when a request needs them

        graph = av.filter.Graph()
        source = graph.add_abuffer(
            format="flt", sample_rate=self._rate, layout="mono", time_base=Fraction(1, self._rate)
        )
        # A single atempo skips samples above 2 and accepts nothing below 0.5.
        count = 1 if 0.5 <= self._speed <= 2 else 2
        filters = [graph.add("atempo", f"{self._speed ** (1 / count):.9f}") for _ in range(count)]
        graph.link_nodes(source, *filters, graph.add("abuffersink"))
        graph.configure()
        return graph
