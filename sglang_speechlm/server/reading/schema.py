"""The bodies of requests: the usage guide's, OpenAI's clients', and the object ``speechlm``."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sglang_speechlm.codec.files import HIGHEST_RATE, LOWEST_RATE, FileFormat
from sglang_speechlm.codec.tempo import FASTEST, SLOWEST
from sglang_speechlm.prompt.words import is_blank
from sglang_speechlm.server.edge.errors import UNKNOWN
from sglang_speechlm.server.reading.demands import check_demands, ignored
from sglang_speechlm.server.reading.lenient import Lenient
from sglang_speechlm.server.reading.structure import ANY_OBJECT, check_schema, narrowed
from sglang_speechlm.server.reading.tools import ToolChoice, Tools
from sglang_speechlm.stage import Guidance

_MOST_BIASES = 4096


def _whole(value: Any) -> Any:
    """Convert a number without a fraction to an integer, however it is written: JSON has one kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _bounded(value: Any) -> Any:
    """Check the length first; ``Field(max_length=...)`` would validate all items before counting them."""
    if isinstance(value, dict) and len(value) > _MOST_BIASES:
        raise ValueError(f"must have at most {_MOST_BIASES} ids, not {len(value)}")
    return value


Int = Annotated[int, BeforeValidator(_whole)]
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Count = Annotated[Int, Field(ge=1, le=2**31 - 1)]
CountOrZero = Annotated[Int, Field(ge=0, le=2**31 - 1)]
TopK = Annotated[Int, Field(ge=-1, le=2**31 - 1)]
Probability = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
RepetitionPenalty = Annotated[float, Field(gt=0, le=2)]
StopString = Annotated[str, Field(min_length=1, max_length=1000)]
ModelName = Annotated[str, Field(max_length=1000)]
SampleRate = Annotated[Int, Field(ge=LOWEST_RATE, le=HIGHEST_RATE)]
Stop = StopString | Annotated[list[StopString], Field(max_length=16)]
Seed = Annotated[Int, Field(ge=-(2**63), lt=2**63)]
TranscriptFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
LogitBias = Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], BeforeValidator(_bounded)]


def top_k_is_positive_or_all(value: int | None) -> int | None:
    """Refuse a top-k of 0."""
    if value == 0:
        raise ValueError("must be at least 1, or -1 for all")
    return value


class Strict(BaseModel):
    """A model that accepts no strings as numbers and no unknown fields."""

    model_config = ConfigDict(strict=True)

    @model_validator(mode="before")
    @classmethod
    def _has_no_other_fields(cls, fields: Any) -> Any:
        """Refuse unknown fields; ``extra="forbid"`` would create an error for each without saying what is allowed."""
        names = fields if isinstance(fields, dict) else ()
        if (unknown := next((name for name in names if name not in cls.model_fields), None)) is not None:
            context = {"field": unknown, "allowed": ", ".join(cls.model_fields)}
            raise PydanticCustomError(UNKNOWN, "is unknown; allowed: {allowed}", context)
        return fields


class VllmXargs(Strict):
    """The guide's ``vllm_xargs``."""

    mode: Literal["text_audio"] | None = None
    phase: Literal["text"] | None = None
    text_temperature: Temperature | None = None
    audio_temperature: Temperature | None = None
    audio_topk: TopK | None = None
    cfg: Guidance | None = None

    _audio_topk = field_validator("audio_topk")(top_k_is_positive_or_all)


class SpeechLM(VllmXargs):
    """The object ``speechlm``: the guide's fields under the same names, and more."""

    text_top_k: TopK | None = None
    text_max_tokens: Count | None = None
    audio_min_frames: CountOrZero | None = None
    audio_max_frames: Count | None = None
    seed: Seed | None = None
    return_ids: bool | None = None
    text: Annotated[str, Field(min_length=1)] | None = None

    _text_top_k = field_validator("text_top_k")(top_k_is_positive_or_all)


class InputAudio(Lenient):
    """OpenAI's ``input_audio``: base64, plain or as a data URL, and the client's name for the format."""

    data: str
    format: str | None = None


class AudioUrl(Lenient):
    """The URL of a clip."""

    url: str


_SYNONYMS = {"input_text": "text", "output_text": "text"}
"""Names of the same parts in OpenAI's Responses API."""


class Part(Lenient):
    """A content part: the field that ``type`` names is required, and all others are ignored.

    A null text counts as empty.
    """

    type: Literal["text", "input_audio", "audio_url"]
    text: str | None = Field(default=None, validate_default=True)
    input_audio: InputAudio | None = Field(default=None, validate_default=True)
    audio_url: AudioUrl | None = Field(default=None, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _known_by_other_names(cls, part: Any) -> Any:
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            return part
        if part["type"] == "refusal":
            part = {"type": "text", **({"text": part["refusal"]} if "refusal" in part else {})}
        part = {**part, "type": _SYNONYMS.get(part["type"], part["type"])}
        return {**part, "text": ""} if part["type"] == "text" and part.get("text", "") is None else part

    @field_validator("text", "input_audio", "audio_url", mode="before")
    @classmethod
    def _is_what_the_type_names(cls, value: Any, info: ValidationInfo) -> Any:
        if info.data.get("type") != info.field_name:
            return None
        if value is None:
            raise PydanticCustomError("missing", "is required")
        return value


class EarlierAudio(Lenient):
    """A spoken answer of this server, by its id; clients may send back its other fields, too.

    Clients that send back an answer without sound send an object without an id, which refers to nothing.
    """

    id: str | None = None
    transcript: str | None = None


class CalledFunction(Lenient):
    """The function of an earlier call; some clients send its arguments as an object."""

    name: str
    arguments: str | dict[str, Any] | None = None


class EarlierCall(Lenient):
    """A call of a function in an assistant's message."""

    function: CalledFunction | None = None


class ChatMessage(Lenient):
    """One message; ``developer`` is OpenAI's newer name for ``system``, and ``tool`` has the result of a call."""

    role: Literal["system", "user", "assistant", "tool"]
    audio: EarlierAudio | None = None
    content: str | Annotated[list[Part], Field(fail_fast=True)] | None = None
    reasoning_content: str | None = None
    refusal: Any = None
    tool_calls: Annotated[list[EarlierCall], Field(fail_fast=True)] | None = None
    function_call: Any = None

    @model_validator(mode="before")
    @classmethod
    def _thinks_by_other_names(cls, message: Any) -> Any:
        """vLLM's newer name."""
        if isinstance(message, dict) and isinstance(message.get("reasoning"), str):
            return {"reasoning_content": message["reasoning"], **message}
        return message

    @field_validator("role", mode="before")
    @classmethod
    def _known_by_other_names(cls, value: Any) -> Any:
        return "system" if value == "developer" else value

    @field_validator("content", mode="before")
    @classmethod
    def _text_or_parts(cls, value: Any) -> Any:
        if not isinstance(value, str | list | None):
            raise ValueError("must be a string or a list of content parts")
        return value

    @property
    def parts(self) -> list[tuple[str, Part]]:
        """Return the non-empty parts, with their paths in the message."""
        if isinstance(self.content, list):
            found = [(f"content[{j}]", part) for j, part in enumerate(self.content) if part.text != ""]
        else:
            found = [("content", Part(type="text", text=self.content))] if self.content else []
        if not found and self.role == "assistant" and isinstance(self.refusal, str) and self.refusal:
            found = [("refusal", Part(type="text", text=self.refusal))]
        return found


class AudioOutput(Lenient):
    """OpenAI's ``audio``: the format of the answer's audio. Any voice is accepted, because the model has only one.

    Without a format, a complete answer is a WAV file, and a stream is raw PCM16.
    """

    voice: Any = None
    format: Literal[FileFormat, "pcm16"] | None = None

    @field_validator("format", mode="before")
    @classmethod
    def _known_by_another_name(cls, value: Any) -> Any:
        return "pcm16" if value == "pcm" else value


class JsonSchema(Lenient):
    """OpenAI's ``json_schema``; the answer keeps to the schema whether or not it is ``strict``."""

    name: Annotated[str, Field(max_length=64)] | None = None
    strict: bool | None = None
    schema_: dict[str, Any] = Field(alias="schema")

    @field_validator("schema_")
    @classmethod
    def _can_be_kept_to(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_schema(value, "response_format.json_schema.schema")
        return cast(dict[str, Any], narrowed(value))


class ResponseFormat(Lenient):
    """OpenAI's ``response_format`` of a chat."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = Field(default=None, validate_default=True)

    @field_validator("json_schema", mode="before")
    @classmethod
    def _is_what_the_type_needs(cls, value: Any, info: ValidationInfo) -> Any:
        if info.data.get("type") != "json_schema":
            return None
        if value is None:
            raise PydanticCustomError("missing", "is required")
        return value


class StreamOptions(Lenient):
    """OpenAI's ``stream_options``."""

    include_usage: bool | None = None


class CommonRequest(BaseModel):
    """The fields that all requests have in common.

    Unknown fields are kept for warnings; those that demand another kind of answer are refused.
    """

    model_config = ConfigDict(strict=True, extra="allow")

    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Temperature | None = None
    top_k: TopK | None = None
    top_p: Share | None = None
    min_p: Share | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    logit_bias: LogitBias | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    stop_token_ids: Annotated[list[Annotated[Int, Field(ge=0, lt=2**31)]], Field(max_length=1024)] | None = None
    min_tokens: CountOrZero | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    modalities: Annotated[list[Literal["text", "audio"]], Field(fail_fast=True)] | None = None
    vllm_xargs: VllmXargs | None = None
    speechlm: SpeechLM | None = None

    @model_validator(mode="before")
    @classmethod
    def _demands_nothing_else(cls, fields: Any) -> Any:
        if isinstance(fields, dict):
            check_demands(fields, cls.model_fields, SpeechLM.model_fields)
        return fields

    @field_validator("top_k")
    @classmethod
    def _zero_is_all(cls, value: int | None) -> int | None:
        """Read a top-k of 0 as "all", as in vLLM and elsewhere."""
        return -1 if value == 0 else value

    @field_validator("modalities")
    @classmethod
    def _text_is_always_written(cls, value: list[str] | None) -> list[str] | None:
        if value and "text" not in value:
            raise ValueError('must be ["text"] or ["text", "audio"]: the model writes before it speaks')
        return value

    def unread(self) -> tuple[str, ...]:
        """Return warnings about unknown fields of the body."""
        return ignored(self.model_extra or {}, ())


class ChatRequest(CommonRequest):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    model: ModelName | None = None
    n: Annotated[Int, Field(ge=1, le=16)] | None = None
    stream_options: StreamOptions | None = None
    separate_reasoning: bool | None = None
    response_format: ResponseFormat | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    audio: AudioOutput | None = None
    sample_rate: SampleRate | None = None

    @field_validator("response_format", mode="before")
    @classmethod
    def _text_may_be_a_name(cls, value: Any) -> Any:
        return None if value in ("text", {}) else value

    @property
    def text_schema(self) -> dict[str, Any] | None:
        """The JSON Schema that the text must match; None if any text will do."""
        if self.response_format is None or self.response_format.type == "text":
            return None
        named = self.response_format.json_schema
        return ANY_OBJECT if named is None else named.schema_


class Voice(Lenient):
    """OpenAI's voice by its id."""

    id: str


class SpeechRequest(CommonRequest):
    """The body of POST /v1/audio/speech. A voice is a name, or OpenAI's object with an id."""

    input: Annotated[str, Field(min_length=1)]
    model: ModelName | None = None
    voice: str | Voice | None = None
    instructions: str | None = None
    response_format: Literal[FileFormat, "pcm"] | None = None
    sample_rate: SampleRate | None = None
    speed: Annotated[float, Field(ge=SLOWEST, le=FASTEST)] | None = None
    stream_format: Literal["audio", "sse"] | None = None

    @property
    def voice_name(self) -> str | None:
        """The name or the description of the voice."""
        name = self.voice.id if isinstance(self.voice, Voice) else self.voice
        return None if name is None or is_blank(name) else name


class ListeningRequest(CommonRequest):
    """The fields of a form with a recording, except the file; a form has numbers as text."""

    model_config = ConfigDict(strict=False)

    model: ModelName | None = None
    prompt: str | None = None
    response_format: TranscriptFormat = "json"
    temperature: Temperature | None = 0.0
    timestamp_granularities: Annotated[list[str], Field(fail_fast=True)] | None = None
    chunking_strategy: Any = None
    include: Any = None

    @field_validator("timestamp_granularities", mode="before")
    @classmethod
    def _one_may_be_without_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("timestamp_granularities")
    @classmethod
    def _only_segments_have_times(cls, value: list[str] | None) -> list[str] | None:
        if any(granularity != "segment" for granularity in value or ()):
            raise ValueError("must be ['segment']: the model returns no timestamps of words")
        return value

    @field_validator("include")
    @classmethod
    def _has_no_probabilities(cls, value: Any) -> Any:
        if value:
            raise ValueError("must be left out: the model returns no probabilities")
        return value

    @property
    def template_values(self) -> dict[str, str | None]:
        """The values for the names in the route's template."""
        return {"prompt": self.prompt}

    def unread(self) -> tuple[str, ...]:
        """Return warnings about fields that are not used."""
        found = super().unread()
        if self.timestamp_granularities and self.response_format != "verbose_json" and not self.stream:
            found += ("timestamp_granularities: not used; 'verbose_json' and streams have the timestamps of segments",)
        if self.chunking_strategy not in (None, "auto"):
            found += ("chunking_strategy: not used; long recordings are always cut at silences, as with 'auto'",)
        return found


class TranscriptionRequest(ListeningRequest):
    """The fields of POST /v1/audio/transcriptions."""

    language: Annotated[str, Field(max_length=100)] | None = None

    @property
    def template_values(self) -> dict[str, str | None]:
        """The values for the names in the route's template."""
        return {"language": self.language, "prompt": self.prompt}


class TranslationRequest(ListeningRequest):
    """The fields of POST /v1/audio/translations, whose text is English."""
