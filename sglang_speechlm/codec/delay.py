"""Frames and codes: stream ``s`` of the codec lags by ``s`` frames, so ``T`` codes take ``T + S - 1`` frames."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sglang_speechlm.config import Ids

IntArray = npt.NDArray[np.int64]


def interleave(codes: npt.NDArray[np.integer], ids: Ids) -> IntArray:
    """Delay codes into frames of vocabulary ids.

    Args:
        codes: ``[T, S]`` code indices, ``S`` being ``ids.num_stream``.

    Returns:
        ``[T + S - 1, S]`` ids: code ``t`` of stream ``s`` is in frame ``t + s``; cells before the first and after
        the last code of a stream hold its codec pad.

    Raises:
        ValueError: if the shape differs or a code lies outside its codebook.
    """
    _check_width("codes", codes, ids)
    outside = (codes < 0) | (codes >= ids.codebook_size)
    if outside.any():
        t, s = np.argwhere(outside)[0]
        raise ValueError(f"code {codes[t, s]} of stream {s} at {t} is outside 0..{ids.codebook_size - 1}")
    pads = _codec_pads(ids)
    count = codes.shape[0]
    frames = np.tile(pads, (count + ids.num_stream - 1, 1))
    for s in range(ids.num_stream):
        frames[s : s + count, s] = codes[:, s] + pads[s] + 1
    return frames


class Deinterleaver:
    """Undoes the delay of frames that arrive in pieces.

    Of ``F`` frames, its results, joined, are ``max(F - (S - 1), 0)`` codes, ``S`` being ``ids.num_stream``. Cells
    before the first and after the last code of a stream are ignored; a codec pad in any other cell becomes code 0.
    """

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._pads = _codec_pads(ids)
        self._waiting = np.empty((0, ids.num_stream), dtype=np.int64)

    def push(self, frames: npt.NDArray[np.integer]) -> IntArray:
        """Take ``[n, S]`` frames of vocabulary ids and return the ``[m, S]`` code indices that they complete.

        Raises:
            ValueError: if the shape differs or the id of a code does not belong to its stream.
        """
        _check_width("frames", frames, self._ids)
        joined = np.concatenate([self._waiting, frames])
        codes = _undelayed(joined, self._pads, self._ids)
        self._waiting = joined[len(codes) :]
        return codes


def _undelayed(frames: IntArray, pads: IntArray, ids: Ids) -> IntArray:
    """Return the codes of contiguous frames. It runs several times a second for each listener."""
    count = max(len(frames) - (ids.num_stream - 1), 0)
    step = ids.num_stream * frames.itemsize
    # Cell [t, s] of this view is cell [t + s, s] of the frames: one frame further for each stream.
    cells = np.ndarray((count, ids.num_stream), np.int64, frames, strides=(step, step + frames.itemsize))
    codes = cells - pads
    if count and codes.view(np.uint64).max() > ids.codebook_size:  # read as unsigned, negative numbers are the largest
        t, s = np.argwhere((codes < 0) | (codes > ids.codebook_size))[0]
        first = ids.codec_pad(int(s))
        raise ValueError(
            f"id {cells[t, s]} in frame {t + s} does not belong to stream {s}, whose ids are "
            f"{first}..{first + ids.codec_layer_size - 1}"
        )
    return np.maximum(codes, 1, out=codes) - 1


def _codec_pads(ids: Ids) -> IntArray:
    return np.array([ids.codec_pad(s) for s in range(ids.num_stream)], dtype=np.int64)


def _check_width(name: str, array: npt.NDArray[np.integer], ids: Ids) -> None:
    if array.ndim != 2 or array.shape[1] != ids.num_stream:
        raise ValueError(f"{name} must have shape [n, {ids.num_stream}]; got {list(array.shape)}")
