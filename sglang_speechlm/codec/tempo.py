"""Sound at another speed, its pitch kept."""

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
    """Sound at another speed, as it comes: FFmpeg's atempo, which overlaps windows where they match best (WSOLA).

    What it gives, put together, does not depend on where the pieces end.
    """

    def __init__(self, sample_rate: int, speed: float) -> None:
        """Take the sound's rate in Hz and how many times as fast it is to be, from ``SLOWEST`` to ``FASTEST``."""
        self._rate, self._speed = sample_rate, speed
        self._block = sample_rate // 10
        self._held = np.empty(0, np.float32)
        self._taken = self._given = 0

    def push(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return what more of the sound settles; float32 [n] in and [m] out."""
        self._taken += len(samples)
        return self._stretched(samples)

    def flush(self) -> npt.NDArray[np.float32]:
        """Return the rest."""
        missing = round(self._taken / self._speed) - self._given
        # The filter keeps some of the sound to itself: silence pushes it out.
        silence = np.zeros(3 * self._block * max(1, round(self._speed)), np.float32)
        return self._stretched(silence)[: max(missing, 0)]

    def _stretched(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        import av

        self._held = np.concatenate([self._held, samples])
        pieces = [np.empty(0, np.float32)]
        # In blocks: where its first window comes in parts, the filter begins with what it has.
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
        import av.filter  # brings all of FFmpeg's libraries: not before a request needs them

        graph = av.filter.Graph()
        source = graph.add_abuffer(
            format="flt", sample_rate=self._rate, layout="mono", time_base=Fraction(1, self._rate)
        )
        # A single filter leaves out samples above 2, and takes nothing below 0.5.
        count = 1 if 0.5 <= self._speed <= 2 else 2
        filters = [graph.add("atempo", f"{self._speed ** (1 / count):.9f}") for _ in range(count)]
        graph.link_nodes(source, *filters, graph.add("abuffersink"))
        graph.configure()
        return graph
