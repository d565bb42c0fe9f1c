"""Files from the wild: joined end to end, cut off, followed by tags, or with wrong sizes.

libsndfile reads one file and trusts its header. This module splits bytes into files that it can read to their end.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from sglang_speechlm.audio.av_ends import aac_end, amr_end, matroska_end, mp4_end
from sglang_speechlm.audio.kinds import AAC, AMR, CODED_CAF, CODED_OGG, MATROSKA, MP3_FRAME, MP4, kind_of
from sglang_speechlm.audio.resync import first_frame

IGNORED_BYTES = 64
"""Number of bytes after a file's end that are ignored without a warning, such as padding and line ends."""

_UNKNOWN_SIZE = 0x7FFF0000
"""Writers that do not know the length state this size or more, or 0."""

_MAX_CHUNKS = 1000
_WINDOW = 1 << 20
_LONGEST_START = 64
"""Number of bytes by which the beginning of a file is recognised."""
_CHUNK_ID = re.compile(rb"[ -~]{4}")
_FLAC = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_OGG_FIRST_PAGE = re.compile(rb"OggS\x00[\x02\x03\x06\x07]")
_ID3 = re.compile(rb"ID3[\x02-\x04][\x00-\x0a][\x00-\xff][\x00-\x7f]{4}")
_XING = rb"(?:\x00\x00)?(?:\x00{9}|\x00{17}|\x00{32})(?:Xing|Info)"
_MP3_START = re.compile(_ID3.pattern + rb"|" + MP3_FRAME + _XING)


_AV_ENDS: dict[str, Callable[[bytes], int]] = {MP4: mp4_end, MATROSKA: matroska_end, AAC: aac_end, AMR: amr_end}


@dataclass(frozen=True)
class File:
    """One file.

    Attributes:
        data: its bytes, with corrected sizes.
        kind: such as "WAV"; None if unknown.
        is_cut: whether its end is missing.
        warnings: sentences about its irregularities.
    """

    data: bytes
    kind: str | None
    is_cut: bool = False
    warnings: tuple[str, ...] = ()


def split(data: bytes) -> Iterator[File]:
    """Yield the files in ``data``, in order; at least one.

    Tags after them are dropped, and what precedes the first whole frame of an MP3 or AAC stream.
    """
    data = _without_tags(data)
    begin = (first_frame(data) or 0) if kind_of(data) is None else 0
    is_lost = len(data[:begin].strip(b"\x00")) > IGNORED_BYTES
    for number, file in enumerate(_files(data[begin:])):
        if is_lost and not number:
            warning = f"{begin} bytes before the first whole frame of the sound were ignored"
            file = replace(file, warnings=(warning, *file.warnings))
        yield file


def _files(data: bytes) -> Iterator[File]:
    while True:
        sound = sound_start(data)
        kind = kind_of(data, sound) or kind_of(data)
        if kind != "MP3":
            data = data[sound:]
        match kind:
            case "WAV" if data[:4] == b"RIFF":
                file, end = _wav(data)
            case "WAV" | "AIFF" | "AU":
                file, end = _sized(data, kind)
            case str() if kind in ("CAF", CODED_CAF):
                file, end = _caf(data, kind)
            case "FLAC":
                end = _start(_FLAC, data, 4)
                file = File(data[:end], kind)
            case str() if kind in ("Ogg", CODED_OGG):
                file, end = _ogg(data, kind)
            case "MP3":
                end = _start(_MP3_START, data, sound + 4)
                file = File(data[:end], kind)
            case str() if kind in _AV_ENDS:
                end = _AV_ENDS[kind](data) or len(data)  # a file that does not even begin well is left to its reader
                file, end = File(data[:end], kind, is_cut=end > len(data)), min(end, len(data))
            case _:
                file, end = File(data, kind), len(data)
        end = _after_padding(data, end)
        if kind_of(data, end) is None:
            unread = len(data) - end
            if unread > IGNORED_BYTES:
                warning = f"{unread} bytes after the end of the sound were ignored: they are not an audio file"
                file = replace(file, warnings=(*file.warnings, warning))
            yield file
            return
        yield file
        data = data[end:]


def _after_padding(data: bytes, end: int) -> int:
    """Return where the next file begins if only zeros are before it; else ``end``."""
    rest = data[end : end + IGNORED_BYTES]
    begin = end + len(rest) - len(rest.lstrip(b"\x00"))
    return end if kind_of(data, begin) is None else begin


def has_frame_count(mp3: bytes) -> bool:
    """Whether an MP3 file states its length, so that libsndfile need not estimate it."""
    start = sound_start(mp3)
    return re.match(MP3_FRAME + _XING, mp3[start : start + 64]) is not None or mp3[start + 36 : start + 40] == b"VBRI"


def _start(pattern: re.Pattern[bytes], data: bytes, begin: int) -> int:
    """Return where the next file begins; the end of the data if there is none."""
    # In windows, because a search blocks all other threads.
    for start in range(begin, len(data), _WINDOW):
        if found := pattern.search(data, start, start + _WINDOW + _LONGEST_START):
            return found.start()
    return len(data)


def _without_tags(data: bytes) -> bytes:
    """Return the data without ID3v1, APE and Lyrics3 tags at the end."""
    end = len(data)
    while size := _tag_before(data, end):
        end -= min(size, end)
    return data[:end]


def _tag_before(data: bytes, end: int) -> int:
    """Return the length of the tag that ends at ``end``; 0 if there is none."""
    if end >= 128 and data[end - 128 : end - 125] == b"TAG":
        return 128
    if end >= 32 and data[end - 32 : end - 24] == b"APETAGEX":
        size, flags = struct.unpack("<I4xI", data[end - 20 : end - 8])
        return max(32, size + (32 if flags >> 31 else 0))
    if end >= 15 and data[end - 9 : end] == b"LYRICS200" and data[end - 15 : end - 9].isdigit():
        return int(data[end - 15 : end - 9]) + 15
    return 0


def sound_start(data: bytes) -> int:
    """Return where the sound begins, after an ID3v2 tag if there is one."""
    if _ID3.match(data) is None:
        return 0
    a, b, c, d = data[6:10]
    return 10 + (a << 21 | b << 14 | c << 7 | d)


def _ogg(data: bytes, kind: str) -> tuple[File, int]:
    """Return one link of a chain of Ogg streams, whose first pages are together at its beginning, and its end."""
    end = _ogg_page_end(data, 0)
    while _OGG_FIRST_PAGE.match(data, end):
        end = _ogg_page_end(data, end)
    end = _start(_OGG_FIRST_PAGE, data, end)
    last = _ogg_page_end(data, data.rfind(b"OggS", 0, end))
    return File(data[:end], kind, is_cut=last > end), end if end < len(data) else min(end, last)


def _ogg_page_end(data: bytes, start: int) -> int:
    sizes = data[start + 27 : start + 27 + data[start + 26]] if start + 26 < len(data) else b""
    return start + 27 + len(sizes) + sum(sizes)


def _sized(data: bytes, kind: str) -> tuple[File, int]:
    """Return a file whose header states its size, and its end."""
    padded = data[:32].ljust(32, b"\x00")
    match data[:4]:
        case b"FORM":
            size = 8 + int.from_bytes(padded[4:8], "big")
        case b".snd":
            size = int.from_bytes(padded[4:8], "big") + int.from_bytes(padded[8:12], "big")
        case b"RIFX":
            size = 8 + int.from_bytes(padded[4:8], "big")
        case b"RF64":
            size = 8 + int.from_bytes(padded[20:28], "little")
        case b"riff":
            size = int.from_bytes(padded[16:24], "little")
        case _:
            size = 0
    if not 64 <= size < _UNKNOWN_SIZE:
        return File(data, kind), len(data)
    return File(data[:size], kind, is_cut=size > len(data)), size


def _caf(data: bytes, kind: str) -> tuple[File, int]:
    """Return a CAF file, whose chunks state their sizes, and its end."""
    end = 8
    for _ in range(_MAX_CHUNKS):
        if _CHUNK_ID.match(data, end) is None or kind_of(data, end) is not None:
            break
        size = int.from_bytes(data[end + 4 : end + 12], "big", signed=True)
        start = end + 12
        if size < 0:  # the samples go on to the end of the file
            return File(data, kind), len(data)
        if data.startswith(b"data", end) and start <= len(data) < start + size:
            # libsndfile opens no file that states more samples than it has.
            sized = data[: start - 8] + (len(data) - start).to_bytes(8, "big") + data[start:]
            return File(sized, kind, is_cut=True), len(data)
        end = start + size
    return File(data[:end], kind, is_cut=end > len(data)), min(end, len(data))


def _wav(data: bytes) -> tuple[File, int]:
    """Return a WAV file with its sizes corrected, and its end."""
    chunk = 12
    for _ in range(_MAX_CHUNKS):
        if data[chunk : chunk + 4] == b"data" or chunk >= len(data):
            break
        chunk = _next_chunk(data, chunk)
    if data[chunk : chunk + 4] != b"data":
        return File(data, "WAV", is_cut=chunk >= len(data)), len(data)
    start = chunk + 8
    stated = int.from_bytes(data[chunk + 4 : start], "little")
    end = start + stated
    warnings: tuple[str, ...] = ()
    is_cut = len(data) < end and stated < _UNKNOWN_SIZE
    if end >= len(data) or (stated == 0 and not _is_chunk(data, start)):
        end = file_end = len(data)
    else:
        file_end = _end_of_chunks(data, end)
        if len(data) - file_end > IGNORED_BYTES and kind_of(data, file_end) is None:
            end = file_end = len(data)
            warnings = (f"the WAV header states {stated} bytes of samples, but {end - start} follow: all were heard",)
    sound = data[start:end]
    header = data[8:chunk]
    sizes = [struct.pack("<I", min(size, 2**32 - 1)) for size in (len(header) + 8 + len(sound), len(sound))]
    sized = b"".join([b"RIFF", sizes[0], header, b"data", sizes[1], sound])
    return File(sized, "WAV", is_cut, warnings), file_end


def _next_chunk(data: bytes, chunk: int) -> int:
    end = chunk + 8 + int.from_bytes(data[chunk + 4 : chunk + 8], "little")
    # Chunks begin at even offsets; some writers ignore that.
    return end if end % 2 == 0 or _is_chunk(data, end) else end + 1


def _is_chunk(data: bytes, place: int) -> bool:
    size = int.from_bytes(data[place + 4 : place + 8], "little")
    return _CHUNK_ID.match(data, place) is not None and place + 8 + size <= len(data) + 1


def _end_of_chunks(data: bytes, end: int) -> int:
    """Return where the chunks after the samples end, and more samples, another file, nothing or unknown data follow."""
    if end % 2 and not _is_chunk(data, end) and kind_of(data, end) is None:
        end += 1
    for _ in range(_MAX_CHUNKS):
        if not _is_chunk(data, end) or data.startswith(b"data", end) or kind_of(data, end) is not None:
            break
        end = min(_next_chunk(data, end), len(data))
    return end
