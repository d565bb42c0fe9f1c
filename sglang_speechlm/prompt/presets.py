"""Presets: how to prompt a checkpoint in the way in which it was trained.

preset_files/README.md describes the files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, model_validator

from sglang_speechlm.config.files import read_json
from sglang_speechlm.prompt.layout import Message, Spoken, Text
from sglang_speechlm.prompt.templates import SpeechTemplate, Strict, TranscriptionTemplate, TranslationTemplate
from sglang_speechlm.prompt.thinking import Reasoning
from sglang_speechlm.prompt.tools import ToolForm

DEFAULT_VOICE = "default"
FILE = "preset.json"
"""File name in a served directory."""
_FOLDER = Path(__file__).parent / "preset_files"
BUILT_IN = tuple(sorted(file.stem for file in _FOLDER.glob("*.json")))

Model = TypeVar("Model", bound=BaseModel)


Name = Annotated[str, Field(min_length=1, max_length=1000, pattern=r"\S")]


class _Voices(RootModel[dict[Name, Name]]):
    """A file of voices."""

    model_config = ConfigDict(strict=True)


class Systems(Strict):
    """The system turn for a chat without one: if the answer is spoken, and if it is text only."""

    generation: str | None = None
    understanding: str | None = None


class Preset(Strict):
    """A preset; preset_files/README.md describes the fields."""

    speech: SpeechTemplate
    transcription: TranscriptionTemplate
    translation: TranslationTemplate | None = None
    speech_text: Literal["given", "written"] = "given"
    system: Systems = Systems()
    systems: list[str] | None = None
    earlier_turns: Annotated[int, Field(ge=0)] | None = None
    earlier_sound: bool = True
    reasoning: Reasoning = "none"
    thinking_tokens: Annotated[int, Field(ge=0)] = 0
    tools: ToolForm = "none"
    passage_characters: Annotated[int, Field(ge=1)] = 400
    window_seconds: Annotated[float, Field(ge=1, le=30)] = 30
    window_pause_seconds: Annotated[float, Field(ge=0.1, le=30)] | None = None
    voices: dict[Name, Name] = Field(default_factory=dict)
    default_voice: str | None = None

    @model_validator(mode="after")
    def _default_voice_exists(self) -> Preset:
        if self.default_voice is not None and self.default_voice not in self.voices:
            raise ValueError(f"default_voice: {self.default_voice!r} is not one of voices")
        return self

    @property
    def offered_voices(self) -> dict[str, str]:
        """Descriptions of the voices that a request may name; a model without voices has the default one."""
        return self.voices or {DEFAULT_VOICE: "The model's own voice"}

    def with_voices(self, voices: Mapping[str, str]) -> Preset:
        """Return this preset with more voices, or with new descriptions of its own.

        Raises:
            ValueError: if its speech template has no place for a voice.
        """
        if self.speech.unused({"voice": "a"}):
            raise ValueError("--voices: this checkpoint has one voice: its speech template has no {voice}")
        return self.model_copy(update={"voices": {**self.voices, **voices}})

    def voice(self, named: str | None) -> str | None:
        """Return a voice's description by its name; a value that is not a name is itself a description."""
        name = named or self.default_voice
        return None if name is None else self.voices.get(name, name)

    def as_trained(
        self, messages: Sequence[Message], encode: Callable[[str], list[int]], *, speaks: bool
    ) -> tuple[list[Message], list[str]]:
        """Return a chat's messages in the form in which the model was trained, and warnings for what was left out.

        Args:
            encode: text to ids.
            speaks: whether the answer is spoken.

        Raises:
            ValueError: if no message remains.
        """
        kept = list(messages)
        warnings = []
        if self.systems is not None:
            taught = [encode(text) for text in self.systems]
            kept = [m for m in kept if m.role != "system" or _ids(m) in taught]
            if len(kept) < len(messages):
                warnings.append(
                    "messages: the system turn was left out, because this model was not trained to follow one"
                )
        if self.earlier_turns is not None:
            later = _last_turns(kept, self.earlier_turns + 1)
            if len(later) < len(kept):
                warnings.append(
                    f"messages: this model was trained with {self.earlier_turns} earlier turns; turns before those "
                    "were left out"
                )
            kept = later
        if not self.earlier_sound and any(isinstance(m.content, Spoken) for m in kept):
            kept = [m for m in kept if not isinstance(m.content, Spoken)]
            warnings.append("messages: this model reads the text of earlier spoken answers, not their sound")
        if not kept:
            raise ValueError("must contain more than a system turn, which this model was not trained to follow")
        has_system = any(m.role == "system" for m in messages)
        return kept if has_system else self.with_system(kept, encode, speaks=speaks), warnings

    def with_system(
        self, messages: list[Message], encode: Callable[[str], list[int]], *, speaks: bool
    ) -> list[Message]:
        """Prepend the preset's system turn for this kind of answer, if it has one and the messages have none."""
        system = self.system.generation if speaks else self.system.understanding
        if system is None or any(m.role == "system" for m in messages):
            return messages
        return [Message("system", Text(encode(system))), *messages]


def load_preset(named: str | None, model_path: Path = Path()) -> Preset:
    """Return a preset by its name or its file; without either, the checkpoint's own, or else the default.

    Raises:
        ValueError: if there is no such preset, or its file cannot be read or is invalid.
    """
    own = model_path / FILE
    if named is None:
        return _load(own if own.is_file() else _FOLDER / "default.json")
    if named in BUILT_IN:
        return _load(_FOLDER / f"{named}.json")
    if not Path(named).is_file():
        raise ValueError(f"--preset: {named!r} is not a file and not one of {', '.join(BUILT_IN)}")
    return _load(Path(named))


def load_voices(file: Path) -> dict[str, str]:
    """Return the descriptions of voices, by name.

    Raises:
        ValueError: if the file cannot be read or is invalid.
    """
    return _checked(_Voices, read_json(file, is_named_once=True), file).root


def load_template(kind: type[Model], file: Path) -> Model:
    """Return the template in a file.

    Raises:
        ValueError: if the file cannot be read or is invalid.
    """
    return _checked(kind, read_json(file, is_named_once=True), file)


def _load(file: Path) -> Preset:
    return _checked(Preset, _whole(read_json(file, is_named_once=True), file), file)


def _whole(raw: dict[str, Any], file: Path) -> dict[str, Any]:
    """Return a preset's fields, completed from the presets that it extends."""
    base = raw.get("extends", None if file == _FOLDER / "default.json" else "default")
    own = {name: value for name, value in raw.items() if name != "extends"}
    if base is None:
        return own
    if base not in BUILT_IN:
        raise ValueError(f"{file}: extends: must be one of {', '.join(BUILT_IN)}; got {base!r}")
    extended = _FOLDER / f"{base}.json"
    return {**_whole(read_json(extended), extended), **own}


def _checked(kind: type[Model], raw: Any, file: Path) -> Model:
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(
            f"{file}: {place + ': ' if place else ''}{first['msg'].removeprefix('Value error, ')}"
        ) from error


def _ids(message: Message) -> list[int] | None:
    return list(message.content.ids) if isinstance(message.content, Text) else None


def _last_turns(messages: Sequence[Message], turns: int) -> list[Message]:
    """Return the system messages and the last turns; a turn begins with the first of consecutive user messages."""
    begins = [i for i, m in enumerate(messages) if m.role == "user" and (i == 0 or messages[i - 1].role != "user")]
    if len(begins) <= turns:
        return list(messages)
    first = next(i for i, m in enumerate(messages) if m.role != "system")
    return [*messages[:first], *messages[begins[-turns] :]]
