"""OpenAI's chunks of a streamed chat answer, and what whole and streamed answers say alike."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from sglang_speechlm.codec.files import pcm16_bytes
from sglang_speechlm.program.reply import AudioDelta, Piece, ReasoningDelta, Reply, TextDelta
from sglang_speechlm.program.request import Request as Asked
from sglang_speechlm.prompt.thinking import split
from sglang_speechlm.server.reading.schema import ChatRequest
from sglang_speechlm.server.routes.identity import WORKER_ID
from sglang_speechlm.server.routes.route import REFUSALS, refusal
from sglang_speechlm.server.routes.streams import chained, event
from sglang_speechlm.server.service import Service

Arrival = tuple[int, Piece | None]
"""The index of a choice, and what came of it; None is its end."""


class ChatStream:
    """Of each choice: role, thinking, text, audio, finish reason; then usage if asked for, and [DONE]; or an error.

    The choices' chunks come between each other's as they are made.
    """

    def __init__(
        self,
        service: Service,
        body: ChatRequest,
        requests: Sequence[Asked],
        replies: Sequence[Reply],
        warnings: tuple[str, ...],
    ) -> None:
        """Take the request, and for each choice what was asked and the reply that its pieces come to."""
        self._service = service
        self._body = body
        self._requests = requests
        self._replies = replies
        self._warnings = warnings
        self._head = {
            "id": requests[0].id.rpartition("-")[0],
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": body.model or service.model_name,
        }
        self._has_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        self._speaking: set[int] = set()

    async def events(self, first: Arrival | None, rest: AsyncGenerator[Arrival]) -> AsyncGenerator[bytes]:
        """The server-sent events."""
        for index in range(len(self._requests)):
            yield self._chunk(index, {"role": "assistant", "content": ""})
        try:
            async for index, piece in chained(first, rest):
                match piece:
                    case ReasoningDelta(text):
                        yield self._chunk(index, {"reasoning_content": text})
                    case TextDelta(text):
                        yield self._chunk(index, {"content": text})
                    case AudioDelta(samples):
                        if index not in self._speaking:
                            yield self._chunk(index, {"audio": self._first_audio(index)})
                        data = base64.b64encode(pcm16_bytes(samples)).decode()
                        yield self._chunk(index, {"audio": {"data": data}})
                    case None:
                        if index in self._speaking:
                            yield self._chunk(index, {"audio": self._last_audio(index)})
                        yield self._end(index)
        except REFUSALS as error:
            yield event(refusal(error).body())
        else:
            if self._has_usage:
                yield event({**self._head, "choices": [], "usage": usage(self._requests[0], self._replies)})
        yield b"data: [DONE]\n\n"

    def _chunk(self, index: int, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
        # OpenAI's chunks name the usage that only the last one has.
        return event({**self._head, "choices": [choice], **({"usage": None} if self._has_usage else {})})

    def _first_audio(self, index: int) -> dict[str, Any]:
        self._speaking.add(index)
        return {
            "id": audio_id(self._requests[index]),
            "transcript": transcript(self._service, self._replies[index]),
            "sample_rate": self._service.sample_rate,
        }

    def _last_audio(self, index: int) -> dict[str, Any]:
        return {"expires_at": self._service.keep(audio_id(self._requests[index]), self._replies[index])}

    def _end(self, index: int) -> bytes:
        asked, reply = self._requests[index], self._replies[index]
        ours = told(self._body, asked, reply, self._warnings, has_sounded=index in self._speaking)
        assert reply.finish is not None
        return self._chunk(index, {"speechlm": ours} if ours else {}, reply.finish.reason)


def audio_id(asked: Asked) -> str:
    """By which later messages refer to the answer's audio, and a front finds the worker that has it."""
    return f"audio-{WORKER_ID}-{asked.id}"


def transcript(service: Service, reply: Reply) -> str:
    """What the audio says: the text without thinking, whether or not the answer gives that apart."""
    return split(reply.text, service.options.preset.reasoning).content


def told(
    body: ChatRequest, asked: Asked, reply: Reply, warnings: tuple[str, ...], *, has_sounded: bool
) -> dict[str, Any]:
    """What stands under ``speechlm`` in an answer: warnings, and the ids if asked for."""
    assert reply.finish is not None
    warnings += reply.finish.warnings
    if asked.audio is not None and not has_sounded and not reply.finish.warnings:
        warnings += ("no audio: too few frames to give a sound",)
    if body.speechlm is None or not body.speechlm.return_ids:
        return {"warnings": warnings} if warnings else {}
    return {
        "text_ids": reply.text_ids,
        "codes": reply.codes,
        "cached_tokens": reply.cached_tokens,
        "warnings": warnings,
    }


def usage(asked: Asked, replies: Sequence[Reply]) -> dict[str, Any]:
    """OpenAI's ``usage`` of the choices of one request."""
    prompt_tokens = len(asked.prompt.ids) + 1  # the modality that opens the reply
    finishes = [reply.finish for reply in replies if reply.finish is not None]
    completion_tokens = sum(finish.tokens for finish in finishes)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {
            "audio_tokens": asked.prompt.audio_positions,
            "cached_tokens": sum(reply.cached_tokens.get("text", 0) for reply in replies[:1]),
        },
        "completion_tokens_details": {"audio_tokens": sum(finish.audio_tokens for finish in finishes)},
    }
