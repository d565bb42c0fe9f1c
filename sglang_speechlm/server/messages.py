"""From a request's messages to a prompt: clips decoded, texts encoded, everything laid out."""

from __future__ import annotations

from collections.abc import Sequence

from sglang_speechlm.audio import AudioError, decode_base64, decode_clip, decode_data_url, encoder_length, mel_features
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.prompt.layout import Content, Heard, Message, Prompt, Text, lay_out
from sglang_speechlm.server.errors import bad_field
from sglang_speechlm.server.schema import AudioUrlPart, ChatMessage, InputAudioPart, Part, TextPart
from sglang_speechlm.tokenizer import TextTokenizer


def read_messages(
    messages: Sequence[ChatMessage], config: SpeechLMConfig, tokenizer: TextTokenizer
) -> tuple[Prompt, tuple[str, ...]]:
    """The prompt, and what the caller should know of it, such as that a clip was cut.

    Raises:
        ApiError: for a part that cannot be read, by its place in the body.
    """
    contents: list[Message] = []
    warnings: list[str] = []
    for i, message in enumerate(messages):
        parts: list[Part]
        parts = [TextPart(type="text", text=message.content)] if isinstance(message.content, str) else message.content
        for j, part in enumerate(parts):
            place = f"messages[{i}].content" + ("" if isinstance(message.content, str) else f"[{j}]")
            if not isinstance(part, TextPart) and message.role == "assistant":
                raise bad_field(f"{place}.type", f"an assistant's message holds text; got {part.type!r}")
            content, heard_of = _read_part(part, place, config, tokenizer)
            contents.append(Message(message.role, content))
            warnings.extend(f"{place}: {warning}" for warning in heard_of)
    return lay_out(contents, config), tuple(warnings)


def _read_part(
    part: Part, place: str, config: SpeechLMConfig, tokenizer: TextTokenizer
) -> tuple[Content, tuple[str, ...]]:
    if isinstance(part, TextPart):
        try:
            return Text(tokenizer.encode(part.text)), ()
        except ValueError as error:
            raise bad_field(place, str(error)) from error
    try:
        if isinstance(part, InputAudioPart):
            place += ".input_audio.data"
            data, declared = decode_base64(part.input_audio.data), part.input_audio.format
        else:
            place += ".audio_url.url"
            data, declared = _open_url(part)
        clip = decode_clip(data, format=declared)
        mel = mel_features(clip.samples, config)
        if encoder_length(mel.shape[1], config.audio_config.n_window) < 1:
            raise AudioError(f"audio clip of {clip.seconds:.3f} s is too short to be heard")
    except AudioError as error:
        raise bad_field(place, str(error)) from error
    return Heard(mel), clip.warnings


def _open_url(part: AudioUrlPart) -> tuple[bytes, str | None]:
    url = part.audio_url.url
    if not url.lower().startswith("data:"):
        raise AudioError("only data: URLs are read; this server fetches nothing from elsewhere")
    return decode_data_url(url)
