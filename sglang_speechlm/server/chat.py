"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from sglang_speechlm.codec import CodecError
from sglang_speechlm.program.engine import StageRefused
from sglang_speechlm.program.settings import Request as Asked
from sglang_speechlm.server.body import read_chat_request
from sglang_speechlm.server.connection import ClientGone, unless_gone
from sglang_speechlm.server.errors import ApiError, bad_field
from sglang_speechlm.server.formats import encode_audio, pcm16_bytes
from sglang_speechlm.server.messages import read_messages
from sglang_speechlm.server.reply import AudioDelta, Reply, TextDelta
from sglang_speechlm.server.schema import ChatRequest
from sglang_speechlm.server.service import Service
from sglang_speechlm.server.settings import resolve, wants_audio

logger = logging.getLogger(__name__)

AUDIO_KEPT_SECONDS = 3600
RATE_HEADER = "X-Audio-Sample-Rate"

Piece = TextDelta | AudioDelta


async def chat_completions(http: Request) -> Response:
    """Answer one chat request, whole or as a stream of server-sent events."""
    service: Service = http.app.state.speechlm
    try:
        body = await read_chat_request(http)
        service.check_model(body.model)
        if body.stream:
            return await _streamed(http, service, body)
        return await unless_gone(http, _whole(service, body))
    except ApiError as error:
        return error.response()
    except (ClientGone, ClientDisconnect):
        return Response(status_code=499)
    except Exception:
        logger.exception("A chat request failed")
        return ApiError(500, "the server failed to answer; its log says why").response()


async def _prepare(service: Service, body: ChatRequest) -> tuple[list[Asked], tuple[str, ...]]:
    """One program request for each of the n choices, and the warnings that the messages gave."""
    prompt, warnings = await asyncio.to_thread(read_messages, body.messages, service.config, service.tokenizer)
    request_id = f"chatcmpl-{uuid.uuid4().hex}"
    first = await asyncio.to_thread(
        resolve, body, request_id, prompt, service.config, service.tokenizer, service.voice.engine.capacity()
    )
    # The choices' seeds follow from the first one's, so that a seed fixes all of them.
    choices = [
        replace(first, id=f"{request_id}-{i}", seed=(first.seed + i + 2**63) % 2**64 - 2**63)
        for i in range(body.n or 1)
    ]
    return choices, warnings


async def _whole(service: Service, body: ChatRequest) -> Response:
    requests, warnings = await _prepare(service, body)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_choice(service, body, i, asked, warnings)) for i, asked in enumerate(requests)]
    outcomes = [task.result() for task in tasks]
    for outcome in outcomes:
        if isinstance(outcome, ApiError):
            raise outcome
    choices, replies = zip(*outcomes, strict=True)
    answer = {
        "id": requests[0].id.rpartition("-")[0],
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body.model or service.model_name,
        "choices": choices,
        "usage": _usage(requests[0], replies),
    }
    return Response(orjson.dumps(answer), media_type="application/json")


async def _choice(
    service: Service, body: ChatRequest, index: int, asked: Asked, warnings: tuple[str, ...]
) -> tuple[dict[str, Any], Reply] | ApiError:
    reply = Reply()
    samples: list[Any] = []
    try:
        async with aclosing(service.voice.reply(asked, reply)) as pieces:
            samples = [piece.samples async for piece in pieces if isinstance(piece, AudioDelta)]
    except (StageRefused, CodecError) as error:
        return _refusal(error)
    assert reply.finish is not None
    warnings += reply.finish.warnings
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if asked.audio is not None:
        message["audio"] = None
        if samples:
            name = (body.audio.format if body.audio is not None else None) or "wav"
            data = await asyncio.to_thread(encode_audio, np.concatenate(samples), service.sample_rate, name)
            message["audio"] = {
                "id": f"audio-{asked.id}",
                "data": base64.b64encode(data).decode(),
                "expires_at": int(time.time()) + AUDIO_KEPT_SECONDS,
                "transcript": reply.text,
                "sample_rate": service.sample_rate,
            }
        elif not reply.finish.warnings:
            warnings += ("no audio: too few frames to give a sound",)
    if told := _told(body, reply, warnings):
        message["speechlm"] = told
    return {"index": index, "message": message, "finish_reason": reply.finish.reason}, reply


def _told(body: ChatRequest, reply: Reply, warnings: tuple[str, ...]) -> dict[str, Any]:
    """What stands under ``speechlm`` in an answer: warnings, and the ids if asked for."""
    if body.speechlm is None or not body.speechlm.return_ids:
        return {"warnings": warnings} if warnings else {}
    return {
        "text_ids": reply.text_ids,
        "codes": reply.codes,
        "cached_tokens": reply.cached_tokens,
        "warnings": warnings,
    }


def _usage(asked: Asked, replies: tuple[Reply, ...]) -> dict[str, Any]:
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


def _refusal(error: StageRefused | CodecError) -> ApiError:
    status = error.status if isinstance(error, StageRefused) else 503
    return ApiError(status, str(error), retry_after=None if status == 400 else 1)


async def _streamed(http: Request, service: Service, body: ChatRequest) -> Response:
    if body.n not in (None, 1):
        raise bad_field("n", f"a stream has one choice; got {body.n}")
    headers = {}
    if wants_audio(body):
        if body.audio is not None and body.audio.format not in (None, "pcm16"):
            raise bad_field("audio.format", f'a stream carries "pcm16"; got {body.audio.format!r}')
        headers[RATE_HEADER] = str(service.sample_rate)
    requests, warnings = await _prepare(service, body)
    reply = Reply()
    pieces = service.voice.reply(requests[0], reply)
    try:
        # What is refused is refused before the stream begins, with a status of its own.
        first = await unless_gone(http, anext(pieces, None))
    except (StageRefused, CodecError) as error:
        raise _refusal(error) from error
    events = _events(service, body, requests[0], warnings, reply, first, pieces)
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


async def _events(
    service: Service,
    body: ChatRequest,
    asked: Asked,
    warnings: tuple[str, ...],
    reply: Reply,
    first: Piece | None,
    pieces: AsyncGenerator[Piece],
) -> AsyncIterator[bytes]:
    """OpenAI's chunks: role, text, audio, finish reason, usage if asked for, [DONE]; or an error in their place."""
    chunk = _chunks(asked.id.rpartition("-")[0], body.model or service.model_name)
    async with aclosing(pieces):
        yield chunk({"role": "assistant", "content": ""})
        try:
            spoken = False
            async for piece in _chain(first, pieces):
                if isinstance(piece, TextDelta):
                    yield chunk({"content": piece.text})
                    continue
                if not spoken:
                    spoken = True
                    head = {"id": f"audio-{asked.id}", "transcript": reply.text, "sample_rate": service.sample_rate}
                    yield chunk({"audio": head})
                yield chunk({"audio": {"data": base64.b64encode(pcm16_bytes(piece.samples)).decode()}})
        except (StageRefused, CodecError) as error:
            yield _event(_refusal(error).body())
        else:
            assert reply.finish is not None
            if spoken:
                yield chunk({"audio": {"expires_at": int(time.time()) + AUDIO_KEPT_SECONDS}})
            told = _told(body, reply, (*warnings, *reply.finish.warnings))
            yield chunk({"speechlm": told} if told else {}, finish_reason=reply.finish.reason)
            if body.stream_options is not None and body.stream_options.include_usage:
                yield chunk(None, usage=_usage(asked, (reply,)))
    yield b"data: [DONE]\n\n"


async def _chain(first: Piece | None, rest: AsyncGenerator[Piece]) -> AsyncIterator[Piece]:
    if first is not None:
        yield first
    async for piece in rest:
        yield piece


def _chunks(request_id: str, model: str) -> Callable[..., bytes]:
    """A maker of chunks of one stream; without a delta the chunk has no choice."""
    head = {"id": request_id, "object": "chat.completion.chunk", "created": int(time.time()), "model": model}

    def chunk(delta: dict[str, Any] | None, finish_reason: str | None = None, **more: Any) -> bytes:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
        return _event({**head, "choices": choices, **more})

    return chunk


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"
