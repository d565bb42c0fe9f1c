"""Recognise a file by its first bytes."""

from __future__ import annotations

import re

ACCEPTED = (
    "WAV, MP3, FLAC, Ogg Vorbis, Ogg Opus, AIFF, AU, CAF, MP4 (m4a, mp4, mov, 3gp), WebM, Matroska, AAC and AMR files, "
    "and raw 16-bit samples as format 'pcm16'"
)
"""The accepted formats, for messages to users."""

MP3_FRAME = rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff][\x10-\xef][\x00-\xff]"

_READ = {
    "WAV": rb"(?:RIFF|RF64|RIFX)[\x00-\xff]{4}WAVE|riff\x2e\x91\xcf\x11",
    "AIFF": rb"FORM[\x00-\xff]{4}AIF[FC]",
    "FLAC": rb"fLaC",
    "Ogg": rb"OggS",
    "CAF": rb"caff",
    "AU": rb"\.snd",
    "MP3": rb"ID3[\x02-\x04]|" + MP3_FRAME,
}
MP4, MATROSKA, AAC, AMR = "MP4 (m4a, mp4, mov, 3gp)", "WebM or Matroska", "AAC", "AMR"
CODED_CAF, CODED_OGG = "compressed CAF", "FLAC or video in Ogg"
_BY_AV = {
    MP4: rb"[\x00-\xff]{4}(?:ftyp|moov|mdat|wide|free|skip)",  # old QuickTime files have no ftyp
    CODED_CAF: rb"caff[\x00-\xff]{4}desc[\x00-\xff]{16}(?!lpcm|ulaw|alaw)[ -~]{4}",
    CODED_OGG: rb"OggS[\x00-\xff]{22}\x01[\x00-\xff](?:\x7fFLAC|\x80theora|fishead\x00)",
    MATROSKA: rb"\x1a\x45\xdf\xa3",
    AAC: rb"\xff[\xf0\xf1\xf8\xf9]",
    AMR: rb"#!AMR",
}
_UNREAD = {
    "AAC (ADIF)": rb"ADIF",
    "Windows Media (wma, asf)": rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    "AC-3": rb"\x0b\x77",
    "WavPack": rb"wvpk",
    "Monkey's Audio": rb"MAC ",
    "DSD": rb"DSD |FRM8",
    "MIDI": rb"MThd",
    "Flash video": rb"FLV\x01",
    "MPEG video": rb"\x00\x00\x01[\xb3\xba]",
    "AVI": rb"RIFF[\x00-\xff]{4}AVI ",
    "PDF": rb"%PDF",
    "PNG": rb"\x89PNG",
    "JPEG": rb"\xff\xd8\xff",
}
_UNREAD_IN_OGG = {"Speex in Ogg": rb"Speex   "}


def kind_of(data: bytes, place: int = 0) -> str | None:
    """Return the kind of the supported file that begins at ``place``, such as "WAV"; None if none does."""
    return _first(_BY_AV, data, place) or _first(_READ, data, place)


def unread_kind_of(data: bytes) -> str | None:
    """Return the kind of a known but unsupported file, else None."""
    if data[:4] == b"OggS":
        # The first page has one packet, after its list of segment sizes.
        return _first(_UNREAD_IN_OGG, data[28:40])
    return _first(_UNREAD, data)


def _first(kinds: dict[str, bytes], data: bytes, place: int = 0) -> str | None:
    return next((name for name, start in kinds.items() if re.compile(start).match(data, place)), None)
