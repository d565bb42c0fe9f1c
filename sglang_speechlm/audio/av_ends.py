"""Find the end of a file that FFmpeg's libraries read, since they do not report what follows it."""

from __future__ import annotations

import re

_MAX_PARTS = 1_000_000
_MP4_BOX = re.compile(rb"[ -~\xa9]{4}")
_AMR_START = re.compile(rb"#!AMR(?:-WB)?\n")
_EBML, _SEGMENT, _VOID, _CRC = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\xec", b"\xbf"


def mp4_end(data: bytes) -> int:
    """Return the end of an MP4 file's boxes, which may lie beyond the data if it was cut off."""
    end = 0
    for _ in range(_MAX_PARTS):
        size = int.from_bytes(data[end : end + 4], "big")
        name = data[end + 4 : end + 8]
        if _MP4_BOX.fullmatch(name) is None or (end and name == b"ftyp"):
            return end
        if size == 1:
            size = int.from_bytes(data[end + 8 : end + 16], "big")
        if size == 0:  # up to the end of the file
            return len(data)
        if size < 8:
            return end
        end += size
    return end


def matroska_end(data: bytes) -> int:
    """Return the end of a Matroska file's segment, which may lie beyond the data if it was cut off."""
    end = 0
    for name in (_EBML, _SEGMENT):
        while data.startswith((_VOID, _CRC), end):
            end = _element_end(data, end + 1)
        if not data.startswith(name, end):
            return len(data)
        end = _element_end(data, end + len(name))
    return end


def _element_end(data: bytes, place: int) -> int:
    """Return the end of an EBML element whose size is at ``place``; the end of the data if no size is stated."""
    if place >= len(data) or not data[place]:
        return len(data)
    length = 9 - data[place].bit_length()
    bits = 7 * length
    size = int.from_bytes(data[place : place + length], "big") & (1 << bits) - 1
    return len(data) if size == (1 << bits) - 1 else place + length + size


def aac_end(data: bytes) -> int:
    """Return the end of the ADTS frames that follow one another."""
    end = 0
    for _ in range(_MAX_PARTS):
        if not (size := adts_size(data, end)):
            break
        end += size
    return end


def adts_size(data: bytes, place: int) -> int:
    """Return the size of the ADTS frame at ``place``; 0 if there is none."""
    head = data[place : place + 6]
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return 0
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return size if size >= 7 else 0


def amr_end(data: bytes) -> int:
    """Return where another AMR file begins, or the end of the data."""
    found = _AMR_START.search(data, 6)
    return found.start() if found else len(data)
