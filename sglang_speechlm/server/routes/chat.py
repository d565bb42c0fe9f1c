"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import Response

from sglang_speechlm.codec.files import RATE_HEADER
from sglang_speechlm.program.engine import StageRefused
from sglang_speechlm.program.reply import AudioDelta, Reply
from sglang_speechlm.program.request import Request as Asked
from sglang_speechlm.prompt.thinking import Reasoning
from sglang_speechlm.server.edge.body import read_json
from sglang_speechlm.server.edge.connection import unless_gone
from sglang_speechlm.server.edge.errors import bad_field
from sglang_speechlm.server.edge.warnings import Warnings
from sglang_speechlm.server.reading.resolve import resolve, wants_audio
from sglang_speechlm.server.reading.schema import ChatRequest
from sglang_speechlm.server.routes.chat_events import ChatStream, audio_id, told, transcript, usage
from sglang_speechlm.server.routes.route import route
from sglang_speechlm.server.routes.streams import ClosingStream, merged
from sglang_speechlm.server.service import Service


@route
async def chat_completions(http: Request, service: Service, deadline: float) -> Response:
    """Answer one chat request, whole or as a stream of server-sent events."""
    body = await read_json(http, ChatRequest)
    service.check_model(body.model)
    Warnings.of(http).add(*body.unread())
    if body.audio is not None:
        service.sound_files.check("audio.format", body.audio.format)
        if not wants_audio(body):
            Warnings.of(http).add('audio: not used: an answer is spoken with "modalities": ["text", "audio"]')
    if body.stream:
        return await _streamed(http, service, body, deadline)
    return await unless_gone(http, _whole(service, body, deadline, Warnings.of(http)))


async def _prepare(service: Service, body: ChatRequest, warnings: Warnings) -> list[Asked]:
    """One program request for each of the n choices."""
    prompt = await service.messages.read(body.messages, warnings, speaks=wants_audio(body))
    request_id = f"chatcmpl-{uuid.uuid4().hex}"
    first = await asyncio.to_thread(
        resolve, body, request_id, prompt, service.config, service.tokenizer, service.voice.engine.capacity()
    )
    reasoning: Reasoning = "none" if body.separate_reasoning is False else service.options.preset.reasoning
    # The choices' seeds follow from the first one's, so that a seed fixes all of them.
    return [
        replace(first, id=f"{request_id}-{i}", seed=(first.seed + i + 2**63) % 2**64 - 2**63, reasoning=reasoning)
        for i in range(body.n or 1)
    ]


async def _whole(service: Service, body: ChatRequest, deadline: float, warnings: Warnings) -> Response:
    requests = await _prepare(service, body, warnings)
    replies = [Reply() for _ in requests]
    samples: list[list[Any]] = [[] for _ in requests]
    begun = False
    voices = [service.voice.reply(asked, reply) for asked, reply in zip(requests, replies, strict=True)]
    try:
        # Where one choice is refused, the others end at once.
        async with aclosing(merged(voices, deadline)) as pieces:
            async for index, piece in pieces:
                # A text that was given is no work: asking again repeats nothing.
                begun = begun or isinstance(piece, AudioDelta) or requests[index].given_text is None
                if isinstance(piece, AudioDelta):
                    samples[index].append(piece.samples)
    except StageRefused as error:
        raise StageRefused(error.status, str(error), begun=begun or error.begun) from error
    known = tuple(warnings)
    choices = [
        await _choice(service, body, index, asked, replies[index], samples[index], known)
        for index, asked in enumerate(requests)
    ]
    for choice in choices:
        warnings.add(*choice["message"].get("speechlm", {}).get("warnings", ()))
    answer = {
        "id": requests[0].id.rpartition("-")[0],
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body.model or service.model_name,
        "choices": choices,
        "usage": usage(requests[0], replies),
    }
    return Response(orjson.dumps(answer), media_type="application/json")


async def _choice(
    service: Service,
    body: ChatRequest,
    index: int,
    asked: Asked,
    reply: Reply,
    samples: list[Any],
    warnings: tuple[str, ...],
) -> dict[str, Any]:
    """One of the answer's choices, once its reply is complete."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.split.content}
    if reply.split.reasoning is not None:
        message["reasoning_content"] = reply.split.reasoning
    if asked.audio is not None:
        message["audio"] = None
        if samples:
            name = (body.audio.format if body.audio is not None else None) or "wav"
            data = await asyncio.to_thread(service.sound_files.encode, np.concatenate(samples), name)
            message["audio"] = {
                "id": audio_id(asked),
                "data": base64.b64encode(data).decode(),
                "expires_at": service.keep(audio_id(asked), reply),
                "transcript": transcript(service, reply),
                "sample_rate": service.sample_rate,
            }
    if ours := told(body, asked, reply, warnings, has_sounded=bool(samples)):
        message["speechlm"] = ours
    assert reply.finish is not None
    return {"index": index, "message": message, "finish_reason": reply.finish.reason}


async def _streamed(http: Request, service: Service, body: ChatRequest, deadline: float) -> Response:
    headers = {}
    if wants_audio(body):
        if body.audio is not None and body.audio.format not in (None, "pcm16"):
            raise bad_field("audio.format", f'a stream carries "pcm16"; got {body.audio.format!r}')
        headers[RATE_HEADER] = str(service.sample_rate)
    warnings = Warnings.of(http)
    requests = await _prepare(service, body, warnings)
    replies = [Reply() for _ in requests]
    pieces = merged(
        [service.voice.reply(asked, reply) for asked, reply in zip(requests, replies, strict=True)], deadline
    )
    try:
        # What is refused is refused before the stream begins, with a status of its own.
        first = await unless_gone(http, anext(pieces, None))
    except BaseException:
        await pieces.aclose()
        raise
    stream = ChatStream(service, body, requests, replies, tuple(warnings))
    return ClosingStream(stream.events(first, pieces), pieces, "text/event-stream", headers)
