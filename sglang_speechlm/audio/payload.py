"""Decode audio bytes from the text in a request."""

from __future__ import annotations

import base64
import contextlib
import re

from sglang_speechlm.audio.errors import AudioError

_DATA_URL = re.compile(r"\s*data:(?P<media_type>[^;,]*)(?:;[^;,]*)*?;\s*base64\s*,", re.IGNORECASE)
_HEADER_CHARACTERS = 1000
"""Maximum length of a data URL's header."""

_UNKNOWN_ESCAPE = re.compile("%(?!2[BF]|3D|0[DA]|20)", re.IGNORECASE)
_ESCAPED = (("%2b", "+"), ("%2f", "/"), ("%3d", "="), ("%0d", ""), ("%0a", ""), ("%20", ""))
"""Allowed percent-encodings in a data URL: base64 characters with a meaning in URLs, and white space.

General decoding would take seconds and gigabytes for a long text of percent signs.
"""

_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_WHITE_SPACE = b" \t\n\r\f\v"
_STRAY = re.compile(r"[^A-Za-z0-9+/_\-=\s]")


def decode_audio(text: str) -> tuple[bytes, str]:
    """Decode base64, plain or in a data URL; return the bytes and the declared format, empty if there is none.

    Raises:
        AudioError: if it is neither.
    """
    return decode_data_url(text) if text.lstrip()[:5].lower() == "data:" else (decode_base64(text), "")


def decode_base64(text: str) -> bytes:
    """Decode base64 in the standard or the URL-safe alphabet, with or without padding and white space.

    Raises:
        AudioError: if ``text`` is empty or is not base64.
    """
    data = None
    with contextlib.suppress(ValueError):
        data = base64.b64decode(text, validate=True)
    if data is None:  # outside of a handler, in which the exception's frames would keep a copy of the text
        data = _decode_loosely(text)
    if not data:
        raise AudioError("audio data is empty; must be base64")
    return data


def decode_data_url(url: str) -> tuple[bytes, str]:
    """Decode a ``data:audio/FORMAT;base64,...`` URL (RFC 2397); return the bytes and the declared format.

    The format is the media subtype in lower case ("wav" for "audio/wav"), empty if the URL has none; ``decode_clip``
    takes it as a hint.

    Raises:
        AudioError: if ``url`` is not a base64 data URL.
    """
    header = _DATA_URL.match(url, 0, _HEADER_CHARACTERS)
    if header is None:
        raise AudioError(f"audio URL must have the form 'data:audio/wav;base64,...'; it begins with {url[:32]!r}")
    content = url[header.end() :]
    if "%" in content:
        if (unknown := _UNKNOWN_ESCAPE.search(content)) is not None:
            raise AudioError(
                f"audio data is not valid base64: {content[unknown.start() :][:3]!r} at position {unknown.start()}; "
                "allowed: %2B, %2F, %3D and white space where characters are percent-encoded"
            )
        for escape, character in _ESCAPED:
            content = content.replace(escape, character).replace(escape.upper(), character)
    return decode_base64(content), header["media_type"].strip().lower().rpartition("/")[2]


def _decode_loosely(text: str) -> bytes:
    try:
        bare = text.encode("ascii").translate(_URL_SAFE, _WHITE_SPACE).rstrip(b"=")
        return base64.b64decode(bare + b"=" * (-len(bare) % 4), validate=True)
    except ValueError:
        stray = _STRAY.search(text)
        reason = (
            f"character {stray[0]!r} at position {stray.start()}"
            if stray
            else "padding in the middle, or a truncated end"
        )
        raise AudioError(
            f"audio data is not valid base64: {reason}; allowed: A-Z a-z 0-9 + / (or - _), = at the end, white space"
        ) from None
