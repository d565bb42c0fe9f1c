"""Prompt templates for routes whose requests are not conversations, with names for fields of the request.

preset_files/README.md describes the files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sglang_speechlm.prompt.layout import Content, Heard, Message, Text
from sglang_speechlm.prompt.words import is_blank

_NAME = re.compile(r"\{([A-Za-z_]\w*)\}")


class Strict(BaseModel):
    """A part of a file; unknown fields are errors."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _Clip(Strict):
    type: Literal["audio"]


class _Message(Strict):
    role: Literal["system", "user", "assistant"]
    content: str | Annotated[list[str | _Clip], Field(min_length=1)]

    @property
    def parts(self) -> list[str | _Clip]:
        return [self.content] if isinstance(self.content, str) else self.content


class Template(Strict):
    """Messages with names in braces."""

    names: ClassVar[frozenset[str]]
    clips: ClassVar[int]

    messages: Annotated[list[_Message], Field(min_length=1)]

    @model_validator(mode="after")
    def _has_what_the_route_gives(self) -> Template:
        unknown = self._named - self.names
        if unknown:
            raise ValueError(f"unknown names {sorted(unknown)}; allowed: {sorted(self.names)}")
        found = sum(isinstance(part, _Clip) for message in self.messages for part in message.parts)
        if found != self.clips:
            raise ValueError(f'{{"type": "audio"}} must appear {self.clips} times; found {found}')
        return self

    @property
    def _named(self) -> set[str]:
        texts = [part for message in self.messages for part in message.parts if isinstance(part, str)]
        return {name for text in texts for name in _NAME.findall(text)}

    def unused(self, values: Mapping[str, str | None]) -> list[str]:
        """Return the names of given values that do not occur in this template."""
        return [name for name, value in values.items() if not is_blank(value or "") and name not in self._named]

    def fill(
        self, values: Mapping[str, str | None], encode: Callable[[str], list[int]], clip: Heard | None = None
    ) -> list[Message]:
        """Return the messages with their names replaced. A part that names a None or blank value is left out.

        Args:
            values: by name, for all names of this template.
            encode: text to ids.
            clip: the clip for a template that contains one.
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


class SpeechTemplate(Template):
    """A template for POST /v1/audio/speech."""

    names = frozenset({"input", "instructions", "voice"})
    clips = 0


class ListeningTemplate(Template):
    """A template for a route that transcribes, which contains the clip once."""

    clips = 1


class TranscriptionTemplate(ListeningTemplate):
    """A template for POST /v1/audio/transcriptions."""

    names = frozenset({"language", "prompt"})


class TranslationTemplate(ListeningTemplate):
    """A template for POST /v1/audio/translations."""

    names = frozenset({"prompt"})


def _is_given(part: str, values: Mapping[str, str | None]) -> bool:
    return all(not is_blank(values[name] or "") for name in _NAME.findall(part))


def _replaced(part: str, values: Mapping[str, str | None]) -> str:
    return _NAME.sub(lambda found: values[found[1]] or "", part)
