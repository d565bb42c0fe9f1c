"""The delay between codec streams: stream s lags by s frames."""

from __future__ import annotations

import numpy as np

from sglang_speechlm.config import Ids


def delay(codes: np.ndarray, ids: Ids) -> list[list[int]]:
    """Lay out [T, num_stream] code indices as T + num_stream - 1 frames of ids; empty cells hold codec pads."""
    length = len(codes)
    frames = []
    for position in range(length + ids.num_stream - 1):
        frame = []
        for stream in range(ids.num_stream):
            step = position - stream
            code_offset = 1 + int(codes[step, stream]) if 0 <= step < length else 0
            frame.append(ids.codec_begin + stream * ids.codec_layer_size + code_offset)
        frames.append(frame)
    return frames


def undelay(frames: list[list[int]], ids: Ids) -> np.ndarray:
    """Remove the delay from F frames; return [max(F - num_stream + 1, 0), num_stream] code indices.

    The cells before a stream's start and after the last whole step are ignored; a codec pad elsewhere is code 0.
    """
    steps = max(len(frames) - ids.num_stream + 1, 0)
    codes = np.zeros((steps, ids.num_stream), dtype=np.int64)
    for step in range(steps):
        for stream in range(ids.num_stream):
            code = frames[step + stream][stream] - (ids.codec_begin + stream * ids.codec_layer_size) - 1
            codes[step, stream] = max(code, 0)
    return codes
