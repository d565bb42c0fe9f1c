"""Build OpenAI's chat answer from replies: complete, or in the chunks of a stream."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import numpy as np
import orjson

from sglang_speechlm.codec import Samples
from sglang_speechlm.codec.files import SoundFormat, encode, pcm16_bytes
from sglang_speechlm.program.engine import StageRefused
from sglang_speechlm.program.reply import AudioDelta, Piece, ReasoningDelta, Reply, TextDelta
from sglang_speechlm.prompt.thinking import split
from sglang_speechlm.prompt.tools import CallDelta
from sglang_speechlm.server.edge.sse import DONE, event
from sglang_speechlm.server.edge.warnings import Warnings
from sglang_speechlm.server.reading.schema import ChatRequest
from sglang_speechlm.server.routes.identity import own_id
from sglang_speechlm.server.routes.route import REFUSALS, refusal
from sglang_speechlm.server.routes.streams import Items
from sglang_speechlm.server.service import Service

Arrival = tuple[int, Piece | None]
"""The index of a choice, and its next piece; None means its end."""


class ChatAnswer:
    """The answer to a chat request, with one reply per choice."""

    def __init__(
        self, service: Service, body: ChatRequest, output: SoundFormat, replies: Sequence[Reply], warnings: Warnings
    ) -> None:
        """Take the request, its replies, and its warnings, to which later ones are added.

        The replies' sound must have the rate of ``output``.
        """
        self._service = service
        self._body = body
        self._choices = [_Choice(service, body, output, reply, tuple(warnings)) for reply in replies]
        self._warnings = warnings
        self._head = {
            "id": replies[0].request.id.rpartition("-")[0],
            "created": int(time.time()),
            "model": body.model or service.model_name,
        }
        self._has_usage = body.stream_options is not None and bool(body.stream_options.include_usage)

    async def whole(self, arrivals: AsyncGenerator[Arrival]) -> bytes:
        """Return the answer as JSON when its replies are complete. If one is refused, the others end at once."""
        try:
            async with aclosing(arrivals):
                async for index, piece in arrivals:
                    if isinstance(piece, AudioDelta):
                        self._choices[index].samples.append(piece.samples)
        except StageRefused as error:
            error.begun = error.begun or any(choice.reply.has_begun for choice in self._choices)
            raise
        choices = []
        for index, choice in enumerate(self._choices):
            message = await choice.message()
            self._warnings.add(*message.get("speechlm", {}).get("warnings", ()))
            choices.append({"index": index, "message": message, "finish_reason": choice.finish_reason})
        return orjson.dumps({**self._head, "object": "chat.completion", "choices": choices, "usage": self._usage()})

    async def events(self, arrivals: Items[Arrival]) -> AsyncGenerator[bytes]:
        """Yield the server-sent events.

        For each choice: role, thinking, text, calls or audio, finish reason; then usage if requested, and [DONE]; or an
        error. The choices' chunks are interleaved as they are generated.
        """
        for index in range(len(self._choices)):
            yield self._chunk(index, {"role": "assistant", "content": ""})
        try:
            async for index, piece in arrivals:
                choice = self._choices[index]
                match piece:
                    case ReasoningDelta(text):
                        yield self._chunk(index, {"reasoning_content": text})
                    case TextDelta(text):
                        yield self._chunk(index, {"content": text})
                    case CallDelta():
                        yield self._chunk(index, {"tool_calls": [choice.call_delta(piece)]})
                    case AudioDelta(samples):
                        if not choice.has_sounded:
                            choice.has_sounded = True
                            yield self._chunk(index, {"audio": choice.audio_head()})
                        data = base64.b64encode(pcm16_bytes(samples)).decode()
                        yield self._chunk(index, {"audio": {"data": data}})
                    case None:
                        if choice.has_sounded:
                            yield self._chunk(index, {"audio": {"expires_at": choice.keep()}})
                        extras = choice.extras()
                        yield self._chunk(index, {"speechlm": extras} if extras else {}, choice.finish_reason)
        except REFUSALS as error:
            yield event(refusal(error).body())
        else:
            if self._has_usage:
                yield self._event([], self._usage())
        yield DONE

    def _chunk(self, index: int, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        return self._event([{"index": index, "delta": delta, "finish_reason": finish_reason}])

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        # OpenAI's chunks all have the field usage, which is null except in the last one.
        usage_field = {"usage": usage} if self._has_usage else {}
        return event({**self._head, "object": "chat.completion.chunk", "choices": choices, **usage_field})

    def _usage(self) -> dict[str, Any]:
        replies = [choice.reply for choice in self._choices]
        prompt = replies[0].request.prompt
        prompt_tokens = len(prompt.ids) + 1  # plus the modality that opens the reply
        completion_tokens = sum(reply.finish.tokens for reply in replies)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {
                "audio_tokens": prompt.audio_positions,
                "cached_tokens": replies[0].cached_tokens.get("text", 0),
            },
            "completion_tokens_details": {"audio_tokens": sum(reply.finish.audio_tokens for reply in replies)},
        }


class _Choice:
    """One choice; the fields that complete and streamed answers share.

    Attributes:
        reply: must be complete before ``message``, ``keep`` and ``extras`` are called.
        samples: pieces of a complete answer's sound, [n].
        has_sounded: whether it has had sound.
    """

    def __init__(
        self, service: Service, body: ChatRequest, output: SoundFormat, reply: Reply, warnings: tuple[str, ...]
    ) -> None:
        self.reply = reply
        self.samples: list[Samples] = []
        self.has_sounded = False
        self._service = service
        self._body = body
        self._output = output
        self._warnings = warnings
        # Later messages refer to the audio by this id, and a front finds its worker by it.
        self._audio_id = f"audio-{own_id()}-{reply.request.id}"

    @property
    def finish_reason(self) -> str:
        """OpenAI's name of the reason for which the answer ended."""
        reason = self.reply.finish.reason
        return "tool_calls" if self.reply.calls and reason == "stop" else reason

    def call_delta(self, delta: CallDelta) -> dict[str, Any]:
        """Return OpenAI's delta of a call, whose first one has its id and the function's name."""
        if delta.name is None:
            return {"index": delta.index, "function": {"arguments": delta.arguments}}
        return {"index": delta.index, **self._call(delta.index, delta.name, delta.arguments)}

    def _call(self, index: int, name: str, arguments: str) -> dict[str, Any]:
        request_id = self.reply.request.id.partition("-")[2].replace("-", "_")
        function = {"name": name, "arguments": arguments}
        return {"id": f"call_{request_id}_{index}", "type": "function", "function": function}

    async def message(self) -> dict[str, Any]:
        """Return OpenAI's message of a complete answer."""
        text = self.reply.split
        message: dict[str, Any] = {"role": "assistant", "content": text.content}
        if text.reasoning is not None:
            message["reasoning_content"] = text.reasoning
        if calls := self.reply.calls:
            message["content"] = text.content or None
            message["tool_calls"] = [self._call(i, call.name, call.arguments) for i, call in enumerate(calls)]
        if self.reply.request.audio is not None:
            message["audio"] = await self._audio() if self.samples else None
        if extras := self.extras():
            message["speechlm"] = extras
        return message

    async def _audio(self) -> dict[str, Any]:
        self.has_sounded = True
        data = await asyncio.to_thread(encode, np.concatenate(self.samples), self._output)
        return {**self.audio_head(), "data": base64.b64encode(data).decode(), "expires_at": self.keep()}

    def audio_head(self) -> dict[str, Any]:
        """Return the audio's fields that are known before its first sample; its text is complete by then."""
        # The audio speaks the text without thinking, whether or not the answer separates it.
        transcript = split(self.reply.text, self._service.options.preset.reasoning).content
        return {"id": self._audio_id, "transcript": transcript, "sample_rate": self._output.rate}

    def keep(self) -> int:
        """Keep the audio for later messages; return when it expires, in seconds since the epoch."""
        return self._service.keep(self._audio_id, self.reply)

    def extras(self) -> dict[str, Any]:
        """Return the object ``speechlm``: warnings, and the ids if requested."""
        reply, warnings = self.reply, self._warnings + self.reply.finish.warnings
        is_silent = reply.request.audio is not None and not self.has_sounded and not reply.calls
        if is_silent and not reply.finish.warnings:
            warnings += ("no audio: too few frames to make a sound",)
        if self._body.speechlm is None or not self._body.speechlm.return_ids:
            return {"warnings": warnings} if warnings else {}
        return {
            "text_ids": reply.text_ids,
            "codes": None if reply.codes is None else reply.codes.tolist(),
            "cached_tokens": reply.cached_tokens,
            "warnings": warnings,
        }
