"""The bodies of requests: what the usage guide sends, what OpenAI's clients send, and our own ``speechlm``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from sglang_speechlm.prompt.words import is_blank

Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
TopK = Annotated[int, Field(ge=-1, le=2**31 - 1)]
Probability = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
RepetitionPenalty = Annotated[float, Field(gt=0, le=2)]
StopString = Annotated[str, Field(min_length=1, max_length=1000)]
Stop = StopString | Annotated[list[StopString], Field(max_length=16)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Guidance = Annotated[float, Field(ge=1, le=20, allow_inf_nan=False)]


def _top_k_is_positive_or_all(value: int | None) -> int | None:
    if value == 0:
        raise ValueError("must be at least 1, or -1 for all")
    return value


class Strict(BaseModel):
    """Numbers are numbers, and unknown fields are refused."""

    model_config = ConfigDict(strict=True, extra="forbid")


class VllmXargs(Strict):
    """The guide's ``vllm_xargs``."""

    mode: Literal["text_audio"] | None = None
    phase: Literal["text"] | None = None
    text_temperature: Temperature | None = None
    audio_temperature: Temperature | None = None
    audio_topk: TopK | None = None
    cfg: Guidance | None = None

    _audio_topk = field_validator("audio_topk")(_top_k_is_positive_or_all)


class SpeechLM(VllmXargs):
    """Our own object: the guide's fields under the same names, and more."""

    text_top_k: TopK | None = None
    text_max_tokens: Count | None = None
    audio_min_frames: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    audio_max_frames: Count | None = None
    seed: Seed | None = None
    return_ids: bool = False
    text: Annotated[str, Field(min_length=1)] | None = None

    _text_top_k = field_validator("text_top_k")(_top_k_is_positive_or_all)


class InputAudio(Strict):
    """OpenAI's ``input_audio``."""

    data: str
    format: str | None = None


class AudioUrl(Strict):
    """Where a clip is."""

    url: str


class TextPart(Strict):
    """A text content part."""

    type: Literal["text"]
    text: str


class InputAudioPart(Strict):
    """A clip inside the request."""

    type: Literal["input_audio"]
    input_audio: InputAudio


class AudioUrlPart(Strict):
    """A clip by its URL."""

    type: Literal["audio_url"]
    audio_url: AudioUrl


Part = Annotated[TextPart | InputAudioPart | AudioUrlPart, Field(discriminator="type")]


class EarlierAudio(BaseModel):
    """A spoken answer of this server, by the id that it came with; the rest of it may be sent back as well."""

    model_config = ConfigDict(strict=True, extra="ignore")

    id: str


def _is_empty(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and part.get("text") == ""


class ChatMessage(BaseModel):
    """One message; fields of OpenAI's that say nothing to this model (such as ``name``) are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")

    role: Literal["system", "user", "assistant"]
    audio: EarlierAudio | None = None
    content: str | list[Part] | None = Field(default=None, validate_default=True)

    @field_validator("content", mode="before")
    @classmethod
    def _not_empty_unless_spoken(cls, value: Any, info: ValidationInfo) -> Any:
        if value in (None, "") or (isinstance(value, list) and all(_is_empty(part) for part in value)):
            if info.data.get("audio") is not None:
                return None
            raise PydanticCustomError("missing", "must not be empty")
        if not isinstance(value, str | list):
            raise ValueError("must be a string or a list of content parts")
        return value

    @property
    def parts(self) -> list[Part]:
        """The content as parts; none where there is only earlier audio."""
        if isinstance(self.content, str):
            return [TextPart(type="text", text=self.content)]
        return self.content or []


class AudioOutput(BaseModel):
    """OpenAI's ``audio``: the asked format of the answer's audio. The model has one voice, so any name is taken.

    Without a format a whole answer is a WAV file and a stream is bare PCM16.
    """

    model_config = ConfigDict(strict=True, extra="ignore")

    voice: Any = None
    format: Literal["wav", "mp3", "flac", "opus", "aac", "pcm16"] | None = None


class StreamOptions(BaseModel):
    """OpenAI's ``stream_options``."""

    model_config = ConfigDict(strict=True, extra="ignore")

    include_usage: bool = False


class Asking(BaseModel):
    """What any request may say of how it is to be answered; fields that say nothing to this model are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")

    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Temperature | None = None
    top_k: TopK | None = None
    top_p: Probability | None = None
    min_p: Share | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    stop_token_ids: list[Annotated[int, Field(ge=0)]] | None = None
    stream: bool | None = None
    modalities: list[Literal["text", "audio"]] | None = None
    vllm_xargs: VllmXargs | None = None
    speechlm: SpeechLM | None = None

    _top_k = field_validator("top_k")(_top_k_is_positive_or_all)

    @field_validator("modalities")
    @classmethod
    def _text_is_always_written(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and "text" not in value:
            raise ValueError('must be ["text"] or ["text", "audio"]: the model writes before it speaks')
        return value


class ChatRequest(Asking):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    stream_options: StreamOptions | None = None
    audio: AudioOutput | None = None
    logprobs: Literal[False] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None


class SpeechRequest(Asking):
    """The body of POST /v1/audio/speech. A voice is a name, or OpenAI's object with an id; anything else is none."""

    input: Annotated[str, Field(min_length=1)]
    model: str | None = None
    voice: Any = None
    instructions: str | None = None
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] | None = None
    speed: float | None = None
    stream_format: Literal["audio", "sse"] | None = None

    @property
    def voice_name(self) -> str | None:
        """The name or the description of the voice."""
        name = self.voice.get("id") if isinstance(self.voice, dict) else self.voice
        return name if isinstance(name, str) and not is_blank(name) else None

    @field_validator("speed")
    @classmethod
    def _speed_is_the_models(cls, value: float | None) -> float | None:
        if value not in (None, 1):
            raise ValueError("must be 1.0: the model speaks at its own speed")
        return value


class TranscriptionRequest(Asking):
    """The fields of POST /v1/audio/transcriptions beside its file; a form holds numbers as text."""

    model_config = ConfigDict(strict=False)

    model: str | None = None
    language: Annotated[str, Field(max_length=100)] | None = None
    prompt: str | None = None
    response_format: Literal["json", "text", "verbose_json"] = "json"
    temperature: Temperature | None = 0.0
