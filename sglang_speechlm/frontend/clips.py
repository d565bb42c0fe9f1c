"""Clips in a script's turns.

The language supports images, but not sound. It keeps their bytes separate from the text, and puts a mark of the
backend's choice at the position of each. This backend has no images, so it uses them for clips.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from sglang.lang.ir import SglImage

from sglang_speechlm.frontend.errors import SpeechLMError

CLIP = "\ufffc"
"""Marks the position of a clip in a text: Unicode's OBJECT REPLACEMENT CHARACTER."""


def audio(clip: str | PathLike[str] | bytes) -> SglImage:
    """Return a clip for ``sgl.user(...)`` or ``sgl.system(...)``, among texts in any order.

    Args:
        clip: an audio file, or the bytes of one, in any format that the server reads.

    Raises:
        OSError: if the file cannot be read.
    """
    return SglImage(clip if isinstance(clip, bytes) else Path(clip).read_bytes())


def content_parts(content: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Return a turn's content in the server's form, with each clip at its position.

    Args:
        content: in the language's form: a text, or a text part with ``CLIP`` marks followed by the images' parts.

    Raises:
        SpeechLMError: if the numbers of marks and clips differ.
    """
    text, *images = [{"text": content}] if isinstance(content, str) else content
    pieces = text["text"].split(CLIP)
    if len(pieces) != len(images) + 1:
        raise SpeechLMError(
            f"a turn has {len(pieces) - 1} clip marks (U+FFFC) but {len(images)} clips; "
            "a fork inside a turn loses that turn's clips"
        )
    if isinstance(content, str):
        return content
    parts = [_text(pieces[0])]
    for image, piece in zip(images, pieces[1:], strict=True):
        data = image["image_url"]["url"].partition(",")[2]
        parts += [{"type": "input_audio", "input_audio": {"data": data}}, _text(piece)]
    return [part for part in parts if part.get("text") != ""]


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
