"""Recordings as browsers and phones make them, written by FFmpeg's libraries."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np

RATE = 16_000
FORMATS: dict[str, tuple[str, str, dict[str, str]]] = {
    "m4a": ("ipod", "aac", {}), "mp4": ("mp4", "aac", {}),
    "mp4 in fragments": ("mp4", "aac", {"movflags": "+frag_keyframe+empty_moov"}), "3gp": ("3gp", "aac", {}),
    "mov": ("mov", "alac", {}), "webm": ("webm", "libopus", {}), "mka": ("matroska", "pcm_s16le", {}),
    "aac": ("adts", "aac", {}), "iPhone's caf": ("caf", "libopus", {}),
}  # fmt: skip


def recorded_file(name: str, samples: Any, *, film: bool = False, tracks: int = 1, codec: str | None = None) -> bytes:
    """Return a file written by FFmpeg with the same samples, float32 [n, ...], on each track.

    An MP4 file has its index at the end, unless it is fragmented.
    """
    format, usual, options = FORMATS[name]
    out = io.BytesIO()
    channels = np.atleast_2d(samples.T)
    layout = "mono" if len(channels) == 1 else "stereo"
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels), format="fltp", layout=layout)
    frame.sample_rate = RATE
    with av.open(out, "w", format=format, options=options) as container:
        if film:
            picture: Any = container.add_stream("mpeg4", rate=5)
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sounds: list[Any] = [container.add_stream(codec or usual, rate=RATE, layout=layout) for _ in range(tracks)]
        if film:
            for shade in range(10):
                container.mux(picture.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * shade, np.uint8))))
            container.mux(picture.encode())
        for sound in sounds:
            container.mux(sound.encode(frame))
            container.mux(sound.encode())
    return out.getvalue()
