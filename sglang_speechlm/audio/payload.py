"""Audio bytes out of the text that a request carries them in."""

from __future__ import annotations

import base64
import binascii
import re

from sglang_speechlm.audio.errors import AudioError

_DATA_URL = re.compile(r"data:(?P<media_type>[^;,]*)(?:;[^;,]*)*?;base64,", re.IGNORECASE)


def decode_base64(text: str) -> bytes:
    """The bytes of standard base64 (RFC 4648, section 4) with padding and without line breaks.

    Raises:
        AudioError: if ``text`` is empty, is a data URL, or holds anything else than base64.
    """
    if not text:
        raise AudioError("audio data is empty; it must be base64")
    if text[:5].lower() == "data:":
        raise AudioError("audio data must be bare base64, without the 'data:...;base64,' of a data URL")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        stray = re.search(r"[^A-Za-z0-9+/=]", text)
        reason = f"character {stray[0]!r} at position {stray.start()}" if stray else str(error)
        raise AudioError(
            f"audio data is not valid base64: {reason}; allowed are A-Z a-z 0-9 + / and closing = only, no line breaks"
        ) from None


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
    return decode_base64(url[header.end() :]), header["media_type"].lower().rpartition("/")[2]
