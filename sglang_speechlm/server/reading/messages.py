"""From a request's messages to a prompt: clips fetched and decoded, texts encoded, everything laid out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sglang_speechlm.audio import AudioError, Clip, decode_audio, decode_clip, encoder_length, mel_features
from sglang_speechlm.audio.fetch import AllowedMedia
from sglang_speechlm.codec import interleave
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.prompt.layout import Heard, Message, Prompt, Spoken, Text, lay_out
from sglang_speechlm.prompt.presets import Preset
from sglang_speechlm.server.edge.errors import bad_field
from sglang_speechlm.server.edge.warnings import Warnings
from sglang_speechlm.server.reading.schema import AudioUrlPart, ChatMessage, InputAudioPart, TextPart
from sglang_speechlm.server.reading.store import AnswerStore, KeptAnswer
from sglang_speechlm.tokenizer import TextTokenizer

Bytes = tuple[bytes, str | None]
"""A clip's bytes, and what the request calls their format."""


@dataclass(frozen=True)
class MessageReader:
    """Reads messages.

    Attributes:
        config: the checkpoint's.
        tokenizer: encodes texts.
        preset: how the checkpoint is asked.
        answers: spoken answers that messages may refer to.
        media: from where clips are fetched.
        capacity: positions that one request may take.
        max_clips: in one request.
        max_fetched_bytes: of all clips that one request has fetched.
    """

    config: SpeechLMConfig
    tokenizer: TextTokenizer
    preset: Preset
    answers: AnswerStore
    media: AllowedMedia
    capacity: int
    max_clips: int
    max_fetched_bytes: int

    async def read(self, messages: Sequence[ChatMessage], warnings: Warnings, *, speaks: bool = False) -> Prompt:
        """The prompt. What was not heard, such as the end of a clip that was cut, is added to ``warnings``.

        ``speaks`` tells that the answer is to be spoken.

        Raises:
            ApiError: for a message that cannot be read, by its place in the body.
        """
        self._check_count(messages)
        kept = {i: self._earlier(i, message) for i, message in enumerate(messages) if message.audio is not None}
        fetched = await self._fetch(messages)
        return await asyncio.to_thread(self._lay_out, messages, kept, fetched, warnings, speaks)

    def _check_count(self, messages: Sequence[ChatMessage]) -> None:
        clips = 0
        for i, message in enumerate(messages):
            for j, part in enumerate(message.parts):
                if isinstance(part, TextPart):
                    continue
                if message.role == "assistant":
                    place = f"messages[{i}].content[{j}].type"
                    raise bad_field(place, f"an assistant's message holds text, or earlier audio; got {part.type!r}")
                clips += 1
        if clips > self.max_clips:
            raise bad_field("messages", f"must not bring more than {self.max_clips} clips; got {clips}")

    def _earlier(self, i: int, message: ChatMessage) -> KeptAnswer:
        """What an assistant's message with an audio id refers to."""
        assert message.audio is not None
        audio_id = message.audio.id
        place = f"messages[{i}].audio"
        if message.role != "assistant":
            raise bad_field(place, f"only an assistant's message refers to earlier audio; got role {message.role!r}")
        answer = self.answers.get(audio_id)
        if answer is None:
            raise bad_field(f"{place}.id", f"there is no audio {audio_id[:100]!r} here, or not any more")
        written = "".join(part.text for part in message.parts if isinstance(part, TextPart))
        if written not in ("", answer.text):
            raise bad_field(f"messages[{i}].content", f"must be what audio {audio_id!r} says, or be left out")
        return answer

    async def _fetch(self, messages: Sequence[ChatMessage]) -> dict[tuple[int, int], Bytes]:
        """What the audio_url parts name, by message and part."""
        fetched: dict[tuple[int, int], Bytes] = {}
        left = self.max_fetched_bytes
        for i, message in enumerate(messages):
            for j, part in enumerate(message.parts):
                if isinstance(part, AudioUrlPart):
                    try:
                        fetched[i, j] = await self.media.read(part.audio_url.url, left)
                    except AudioError as error:
                        raise bad_field(f"messages[{i}].content[{j}].audio_url.url", str(error)) from error
                    left -= len(fetched[i, j][0])
        return fetched

    def _lay_out(
        self,
        messages: Sequence[ChatMessage],
        kept: Mapping[int, KeptAnswer],
        fetched: Mapping[tuple[int, int], Bytes],
        warnings: Warnings,
        speaks: bool,
    ) -> Prompt:
        contents: list[Message] = []
        written = 0
        for i, message in enumerate(messages):
            if i in kept:
                frames = interleave(kept[i].codes.astype(np.int64), self.config.ids)
                contents.append(Message(message.role, Text(kept[i].text_ids.tolist())))
                contents.append(Message(message.role, Spoken(frames)))
                continue
            for j, part in enumerate(message.parts):
                place = f"messages[{i}].content" + ("" if isinstance(message.content, str) else f"[{j}]")
                if isinstance(part, TextPart):
                    ids = self._encode(part.text, place)
                    contents.append(Message(message.role, Text(ids)))
                    written += len(ids)
                    if written > self.capacity:
                        raise bad_field("messages", f"must not take more than {self.capacity} positions")
                    continue
                if isinstance(part, InputAudioPart):
                    place += ".input_audio.data"
                    heard, clip = self._hear_base64(part, place)
                else:
                    place += ".audio_url.url"
                    heard, clip = self.hear(*fetched[i, j], place)
                contents.append(Message(message.role, heard))
                warnings.add(*(f"{place}: {warning}" for warning in clip.warnings))
        contents, left_out = self.preset.as_taught(contents, self.tokenizer.encode, speaks=speaks)
        warnings.add(*left_out)
        return lay_out(contents, self.config)

    def _encode(self, text: str, place: str) -> list[int]:
        try:
            return self.tokenizer.encode(text, self.capacity)
        except ValueError as error:
            raise bad_field(place, str(error)) from error

    def _hear_base64(self, part: InputAudioPart, place: str) -> tuple[Heard, Clip]:
        try:
            data, format = decode_audio(part.input_audio.data)
        except AudioError as error:
            raise bad_field(place, str(error)) from error
        return self.hear(data, part.input_audio.format or format, place)

    def hear(self, data: bytes, declared: str | None, place: str) -> tuple[Heard, Clip]:
        """A clip as the model hears it.

        Args:
            data: a whole file.
            declared: what the request calls its format.
            place: the field that it came in.

        Raises:
            ApiError: 400 if it cannot be heard.
        """
        try:
            clip = decode_clip(data, format=declared)
            mel = mel_features(clip.samples, self.config)
        except AudioError as error:
            raise bad_field(place, str(error)) from error
        if encoder_length(mel.shape[1], self.config.audio_config.n_window) < 1:
            raise bad_field(place, f"audio clip of {clip.seconds:.3f} s is too short to be heard")
        return Heard(mel), clip
