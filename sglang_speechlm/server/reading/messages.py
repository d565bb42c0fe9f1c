"""Turn a request's messages into a prompt: fetch and decode clips, encode texts, lay everything out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from sglang_speechlm.audio import AudioError, Clip, decode_audio, decode_clip, encoder_length, mel_features
from sglang_speechlm.audio.fetch import AllowedMedia
from sglang_speechlm.audio.mel import SAMPLE_RATE
from sglang_speechlm.codec import interleave
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.prompt.layout import Heard, Message, Prompt, Spoken, Text, lay_out
from sglang_speechlm.prompt.presets import Preset
from sglang_speechlm.prompt.thinking import join, split
from sglang_speechlm.prompt.tools import SEPARATOR, Function, instructions, result, spelled
from sglang_speechlm.server.decoding import decoding
from sglang_speechlm.server.edge.errors import bad_field
from sglang_speechlm.server.edge.warnings import Warnings
from sglang_speechlm.server.reading.schema import ChatMessage, InputAudio, Part
from sglang_speechlm.server.reading.store import AnswerStore, KeptAnswer
from sglang_speechlm.tokenizer import TextTokenizer

_NO_CLIPS = {
    "assistant": "an assistant's message must contain text or earlier audio",
    "tool": "the result of a call must be text",
}
"""Roles whose messages have no clips, and why."""

Bytes = tuple[bytes, str | None]
"""A clip's bytes, and their format according to the request."""


@dataclass(frozen=True)
class MessageReader:
    """Reads messages.

    Attributes:
        config: the checkpoint's config.
        tokenizer: encodes texts.
        preset: the checkpoint's preset.
        answers: spoken answers that messages may refer to.
        media: fetches clips by URL.
        capacity: maximum positions of one request.
        max_clips: maximum clips in one request.
        max_fetched_bytes: maximum total size of one request's fetched clips.
    """

    config: SpeechLMConfig
    tokenizer: TextTokenizer
    preset: Preset
    answers: AnswerStore
    media: AllowedMedia
    capacity: int
    max_clips: int
    max_fetched_bytes: int

    async def read(
        self,
        messages: Sequence[ChatMessage],
        warnings: Warnings,
        *,
        speaks: bool = False,
        functions: Sequence[Function] = (),
    ) -> Prompt:
        """Return the prompt. Add to ``warnings`` what was not heard, such as the end of a long clip.

        ``speaks`` says whether the answer is spoken, ``functions`` which functions it may call.

        Raises:
            ApiError: for a message that cannot be read, with its path in the body.
        """
        self._check_count(messages)
        kept: dict[int, KeptAnswer] = {}
        for i, message in enumerate(messages):
            if (
                message.audio is not None
                and message.audio.id
                and (answer := self._earlier(i, message, warnings)) is not None
            ):
                kept[i] = answer
            elif message.role == "user" and not self._parts(message):
                warnings.add(f"messages[{i}].content is empty; the message was left out")
            warnings.add(*self._unread_calls(i, message))
            if _thoughts(message) and self.preset.reasoning == "none":
                warnings.add(f"messages[{i}].reasoning_content: not used, because this model was not trained to think")
        if not any(self._parts(message) or i in kept for i, message in enumerate(messages)):
            raise bad_field(f"messages[{len(messages) - 1}].content", "must not be empty if all messages are empty")
        fetched = await self._fetch(messages)
        has_clips = any(part.type != "text" for message in messages for _, part in message.parts)
        in_thread = decoding if has_clips else asyncio.to_thread
        return await in_thread(self._lay_out, messages, kept, fetched, warnings, speaks, functions)

    def _check_count(self, messages: Sequence[ChatMessage]) -> None:
        if len(messages) > self.capacity:
            raise bad_field(
                "messages",
                f"must not exceed the context length of {self.capacity} tokens; got {len(messages)} messages",
            )
        clips = 0
        for i, message in enumerate(messages):
            if message.role == "tool" and self.preset.tools == "none":
                raise bad_field(
                    f"messages[{i}].role",
                    "must be 'system', 'user' or 'assistant': this model was not trained to call functions; got 'tool'",
                )
            for place, part in message.parts:
                if part.type == "text":
                    continue
                if message.role in _NO_CLIPS:
                    raise bad_field(f"messages[{i}].{place}.type", f"{_NO_CLIPS[message.role]}; got {part.type!r}")
                clips += 1
        if clips > self.max_clips:
            raise bad_field("messages", f"must not have more than {self.max_clips} audio clips; got {clips}")

    def _earlier(self, i: int, message: ChatMessage, warnings: Warnings) -> KeptAnswer | None:
        """Return the answer that an assistant's message with an audio id refers to; None if only its text is left."""
        assert message.audio is not None
        assert message.audio.id is not None
        audio_id = message.audio.id
        place = f"messages[{i}].audio"
        if message.role != "assistant":
            raise bad_field(place, f"only an assistant's message may refer to earlier audio; got role {message.role!r}")
        answer = self.answers.get(audio_id)
        if answer is None:
            unknown = f"unknown or expired audio id {audio_id[:100]!r}"
            if not self._parts(message):
                raise bad_field(f"{place}.id", f"{unknown}; send the message's text as well")
            warnings.add(f"{place}.id: {unknown}: the message's text was used instead")
            return None
        reasoning, content = split(answer.text, self.preset.reasoning)
        if "".join(part.text or "" for _, part in message.parts) not in ("", answer.text, content):
            raise bad_field(f"messages[{i}].content", f"must match the text of audio {audio_id!r}, or be left out")
        if self.preset.reasoning != "none" and _thoughts(message) not in ("", reasoning):
            raise bad_field(
                f"messages[{i}].reasoning_content", f"must match the thinking before audio {audio_id!r}, or be left out"
            )
        return answer

    def _parts(self, message: ChatMessage) -> list[tuple[str, Part]]:
        """Return a message's non-empty parts, or else its spoken text, with their paths in the message.

        Thinking, the text after it and calls of functions are joined into one text again, as the model wrote it.
        """
        if message.role == "tool":
            text = "".join(part.text or "" for _, part in message.parts)
            return [("content", Part(type="text", text=result(text)))]
        parts = message.parts or _transcript(message)
        if calls := self._calls(message):
            *before, (place, last) = parts or [("tool_calls", Part(type="text", text=""))]
            parts = [*before, (place, last.model_copy(update={"text": (last.text or "") + calls}))]
        thoughts = _thoughts(message)
        if not thoughts or self.preset.reasoning == "none":
            return parts
        (place, first), *rest = parts or [("reasoning_content", Part(type="text", text=""))]
        return [(place, first.model_copy(update={"text": join(thoughts, first.text or "")})), *rest]

    def _calls(self, message: ChatMessage) -> str:
        """Return the calls in an assistant's message as the model wrote them."""
        if self.preset.tools == "none" or message.role != "assistant":
            return ""
        called = [call.function for call in message.tool_calls or () if call.function is not None]
        return SEPARATOR.join(spelled(function.name, _json(function.arguments)) for function in called)

    async def _fetch(self, messages: Sequence[ChatMessage]) -> dict[tuple[int, str], Bytes]:
        """Fetch the clips of the audio_url parts; return them by message and path."""
        fetched: dict[tuple[int, str], Bytes] = {}
        left = self.max_fetched_bytes
        for i, message in enumerate(messages):
            for place, part in message.parts:
                if part.audio_url is not None:
                    try:
                        fetched[i, place] = await self.media.read(part.audio_url.url, left)
                    except AudioError as error:
                        raise bad_field(f"messages[{i}].{place}.audio_url.url", str(error)) from error
                    left -= len(fetched[i, place][0])
        return fetched

    def _lay_out(
        self,
        messages: Sequence[ChatMessage],
        kept: Mapping[int, KeptAnswer],
        fetched: Mapping[tuple[int, str], Bytes],
        warnings: Warnings,
        speaks: bool,
        functions: Sequence[Function],
    ) -> Prompt:
        contents: list[Message] = []
        written = 0
        for i, message in enumerate(messages):
            if i in kept:
                frames = interleave(kept[i].codes.astype(np.int64), self.config.ids)
                contents.append(Message(message.role, Text(kept[i].text_ids.tolist())))
                contents.append(Message(message.role, Spoken(frames)))
                continue
            role = "user" if message.role == "tool" else message.role
            for key, part in self._parts(message):
                place = f"messages[{i}].{key}"
                if part.input_audio is not None:
                    place += ".input_audio.data"
                    heard, clip = self._hear_base64(part.input_audio, place)
                elif part.audio_url is not None:
                    place += ".audio_url.url"
                    heard, clip = self.hear(*fetched[i, key], place)
                else:
                    ids = self._encode(part.text or "", place)
                    contents.append(Message(role, Text(ids)))
                    written += len(ids)
                    if written > self.capacity:
                        raise bad_field("messages", f"must not exceed the context length of {self.capacity} tokens")
                    continue
                contents.append(Message(role, heard))
                warnings.add(*(f"{place}: {warning}" for warning in clip.warnings))
        try:
            contents, left_out = self.preset.as_trained(contents, self.tokenizer.encode, speaks=speaks)
        except ValueError as error:
            raise bad_field("messages", str(error)) from error
        warnings.add(*left_out)
        if functions:
            contents = _instructed(contents, partial(self._encode, place="tools"), instructions(functions))
        return lay_out(contents, self.config)

    def _encode(self, text: str, place: str) -> list[int]:
        try:
            return self.tokenizer.encode(text, self.capacity)
        except ValueError as error:
            raise bad_field(place, str(error)) from error

    def _hear_base64(self, audio: InputAudio, place: str) -> tuple[Heard, Clip]:
        try:
            data, format = decode_audio(audio.data)
        except AudioError as error:
            raise bad_field(place, str(error)) from error
        return self.hear(data, audio.format or format, place)

    def hear(self, data: bytes, declared: str | None, place: str) -> tuple[Heard, Clip]:
        """Decode a clip for the model.

        Args:
            data: a complete file.
            declared: its format according to the request.
            place: path of its field.

        Raises:
            ApiError: 400 if it cannot be decoded.
        """
        try:
            clip = decode_clip(data, format=declared)
        except AudioError as error:
            raise bad_field(place, str(error)) from error
        return self.hear_samples(clip.samples, place), clip

    def hear_samples(self, samples: npt.NDArray[np.float32], place: str) -> Heard:
        """Convert samples at 16 kHz for the model: float32 ``[n]``, at most 30 s.

        Raises:
            ApiError: 400 with the field ``place``, if there are too few.
        """
        try:
            mel = mel_features(samples, self.config)
        except AudioError as error:
            raise bad_field(place, str(error)) from error
        if encoder_length(mel.shape[1], self.config.audio_config.n_window) < 1:
            raise bad_field(place, f"audio clip of {len(samples) / SAMPLE_RATE:.3f} s is too short to be heard")
        return Heard(mel)

    def _unread_calls(self, i: int, message: ChatMessage) -> Iterator[str]:
        """Yield warnings about calls of functions that the model cannot read."""
        for name in ("tool_calls", "function_call"):
            if getattr(message, name) and (name == "function_call" or self.preset.tools == "none"):
                rest = "" if self._parts(message) else "; the message was left out"
                yield f"messages[{i}].{name}: this model does not read it{rest}"


def _instructed(messages: list[Message], encode: Callable[[str], list[int]], text: str) -> list[Message]:
    """Return messages whose system turn ends with ``text``."""
    if messages and messages[0].role == "system" and isinstance(messages[0].content, Text):
        first = Message("system", Text([*messages[0].content.ids, *encode(f"\n\n{text}")]))
        return [first, *messages[1:]]
    return [Message("system", Text(encode(text))), *messages]


def _json(arguments: str | dict[str, Any] | None) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)


def _transcript(message: ChatMessage) -> list[tuple[str, Part]]:
    """Return the transcript of an assistant's message that was sent back."""
    transcript = message.audio.transcript if message.audio is not None else None
    return [("audio.transcript", Part(type="text", text=transcript))] if transcript else []


def _thoughts(message: ChatMessage) -> str:
    """Return the thinking in an assistant's message."""
    return (message.reasoning_content or "") if message.role == "assistant" else ""
