"""Audio bytes out of the text that a request carries them in."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote

from sglang_speechlm.audio.errors import AudioError

_DATA_URL = re.compile(r"\s*data:(?P<media_type>[^;,]*)(?:;[^;,]*)*?;\s*base64\s*,", re.IGNORECASE)
_STRAY = re.compile(r"[^A-Za-z0-9+/_\-=\s]")


def decode_audio(text: str) -> tuple[bytes, str]:
    """Bytes and declared format of base64, bare or in a data URL; an empty format where none is declared.

    Raises:
        AudioError: if it is neither.
    """
    return decode_data_url(text) if text.lstrip()[:5].lower() == "data:" else (decode_base64(text), "")


def decode_base64(text: str) -> bytes:
    """The bytes of base64, in the standard or the URL-safe alphabet, with or without padding and white space.

    Raises:
        AudioError: if ``text`` is empty or holds anything else than base64.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = _decode_loosely(text)
    if not data:
        raise AudioError("audio data is empty; it must be base64")
    return data


def decode_data_url(url: str) -> tuple[bytes, str]:
    """Bytes and declared format of a ``data:audio/FORMAT;base64,...`` URL (RFC 2397).

    The format is the media subtype in lower case ("wav" of "audio/wav"), empty where the URL names none;
    ``decode_clip`` takes it as its hint.

    Raises:
        AudioError: if ``url`` is no base64 data URL, or what it holds is not base64.
    """
    header = _DATA_URL.match(url)
    if header is None:
        raise AudioError(f"audio URL must have the form 'data:audio/wav;base64,...'; it begins with {url[:32]!r}")
    content = url[header.end() :]
    if "%" in content:
        content = unquote(content)
    return decode_base64(content), header["media_type"].strip().lower().rpartition("/")[2]


def _decode_loosely(text: str) -> bytes:
    bare = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        stray = _STRAY.search(text)
        reason = (
            f"character {stray[0]!r} at position {stray.start()}" if stray else "padding in its middle, or a cut end"
        )
        raise AudioError(
            f"audio data is not valid base64: {reason}; allowed are A-Z a-z 0-9 + / (or - _), = at the end, white space"
        ) from None
