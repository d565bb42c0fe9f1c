"""What the model is told by a route whose requests are no conversations: a file that an operator can replace.

templates/README.md describes the files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from sglang_speechlm.prompt.layout import Content, Heard, Message, Text
from sglang_speechlm.prompt.words import is_blank
from sglang_speechlm.server.reading.schema import Strict

_FOLDER = Path(__file__).parent / "templates"
_NAME = re.compile(r"\{([A-Za-z_]\w*)\}")


class _Clip(Strict):
    type: Literal["audio"]


class _Message(Strict):
    role: Literal["system", "user", "assistant"]
    content: str | Annotated[list[str | _Clip], Field(min_length=1)]

    @property
    def parts(self) -> list[str | _Clip]:
        return [self.content] if isinstance(self.content, str) else self.content


class _File(Strict):
    messages: Annotated[list[_Message], Field(min_length=1)]


@dataclass(frozen=True)
class Template:
    """Messages with names in braces."""

    messages: tuple[_Message, ...]

    def fill(
        self, values: Mapping[str, str | None], encode: Callable[[str], list[int]], clip: Heard | None = None
    ) -> list[Message]:
        """The messages, with the names replaced; a part that names a value which is None or blank is left out.

        Args:
            values: by name; all names that ``load`` allowed.
            encode: text to ids.
            clip: what stands where the template says so.
        """
        filled = []
        for message in self.messages:
            parts = [part for part in message.parts if isinstance(part, _Clip) or _is_given(part, values)]
            for is_text, run in groupby(parts, lambda part: isinstance(part, str)):
                content: Content
                if is_text:
                    content = Text(encode("".join(_replaced(part, values) for part in run if isinstance(part, str))))
                else:
                    assert clip is not None
                    content = clip
                filled.append(Message(message.role, content))
        return filled


def load_speech_template(file: Path = _FOLDER / "speech.json") -> Template:
    """A template for speech.

    Raises:
        ValueError: if the file cannot be read or is none.
    """
    return _load(file, frozenset({"input", "instructions"}), clips=0)


def load_transcription_template(file: Path = _FOLDER / "transcription.json") -> Template:
    """A template for transcriptions, in which the clip stands once.

    Raises:
        ValueError: if the file cannot be read or is none.
    """
    return _load(file, frozenset({"language", "prompt"}), clips=1)


def _load(file: Path, names: frozenset[str], clips: int) -> Template:
    try:
        messages = _File.model_validate_json(file.read_bytes()).messages
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{file}: {place + ': ' if place else ''}{first['msg']}") from error
    parts = [part for message in messages for part in message.parts]
    unknown = {name for part in parts if isinstance(part, str) for name in _NAME.findall(part)} - names
    if unknown:
        raise ValueError(f"{file}: unknown names {sorted(unknown)}; allowed are {sorted(names)}")
    found = sum(isinstance(part, _Clip) for part in parts)
    if found != clips:
        raise ValueError(f'{file}: {{"type": "audio"}} must stand there {clips} times; it does {found} times')
    return Template(tuple(messages))


def _is_given(part: str, values: Mapping[str, str | None]) -> bool:
    return all(not is_blank(values[name] or "") for name in _NAME.findall(part))


def _replaced(part: str, values: Mapping[str, str | None]) -> str:
    return _NAME.sub(lambda found: values[found[1]] or "", part)
