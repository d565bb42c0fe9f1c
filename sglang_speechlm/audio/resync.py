"""Find the first whole frame of an MP3 or AAC stream that begins within a frame, as slices and broadcasts do."""

from __future__ import annotations

import re

from sglang_speechlm.audio.av_ends import adts_size

_SEARCHED = 1 << 16
_FRAMES = 4
"""Number of frames that must follow one another: a sync word alone occurs by chance."""
_SYNC = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb\xf0\xf1\xf8\xf9]")
_KBIT_OF_MPEG1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBIT_OF_MPEG2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES = (44_100, 48_000, 32_000)
_RATE_DIVISORS = {3: 1, 2: 2, 0: 4}
"""By the version bits: MPEG 1, 2 and 2.5."""


def first_frame(data: bytes) -> int | None:
    """Return where the first of several successive frames begins; None if there is none in the first 64 KiB."""
    found = _SYNC.finditer(data, 0, _SEARCHED)
    return next((match.start() for match in found if _are_frames(data, match.start())), None)


def _are_frames(data: bytes, place: int) -> bool:
    sync = data[place : place + 2]
    for _ in range(_FRAMES):
        if not data.startswith(sync, place) or not (size := _mp3_size(data, place) or adts_size(data, place)):
            return False
        place += size
    return True


def _mp3_size(data: bytes, place: int) -> int:
    """Return the size of the layer III frame at ``place``; 0 if there is none."""
    head = int.from_bytes(data[place : place + 4], "big")
    version, layer, kbit, rate = head >> 19 & 3, head >> 17 & 3, head >> 12 & 15, head >> 10 & 3
    if layer != 1 or version not in _RATE_DIVISORS or kbit in (0, 15) or rate == 3:
        return 0
    bits = 1000 * (_KBIT_OF_MPEG1 if version == 3 else _KBIT_OF_MPEG2)[kbit]
    samples = 1152 if version == 3 else 576
    return samples // 8 * bits * _RATE_DIVISORS[version] // _RATES[rate] + (head >> 9 & 1)
