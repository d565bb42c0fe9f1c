"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from sglang_speechlm.codec import CodecError
from sglang_speechlm.program.engine import StageRefused
from sglang_speechlm.program.settings import Request as Asked
from sglang_speechlm.server.connection import ClientGone, unless_gone
from sglang_speechlm.server.errors import ApiError, bad_field, from_validation
from sglang_speechlm.server.formats import encode_audio
from sglang_speechlm.server.messages import read_messages
from sglang_speechlm.server.reply import AudioDelta, Reply, TextDelta
from sglang_speechlm.server.schema import ChatRequest
from sglang_speechlm.server.service import Service
from sglang_speechlm.server.settings import resolve, wants_audio

logger = logging.getLogger(__name__)

AUDIO_KEPT_SECONDS = 3600


async def chat_completions(http: Request) -> Response:
    """Answer one chat request, whole or as a stream of server-sent events."""
    service: Service = http.app.state.speechlm
    try:
        body = _read(await http.body())
        service.check_model(body.model)
        if body.stream:
            return await _streamed(service, body)
        return await unless_gone(http, _whole(service, body))
    except ApiError as error:
        return error.response()
    except ClientGone:
        return Response(status_code=499)
    except Exception:
        logger.exception("A chat request failed")
        return ApiError(500, "the server failed to answer; its log says why").response()


def _read(raw: bytes) -> ChatRequest:
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ApiError(400, f"the body must be a JSON object; got {type(fields).__name__}")
    try:
        return ChatRequest.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error) from error


async def _prepare(service: Service, body: ChatRequest) -> tuple[list[Asked], tuple[str, ...]]:
    """One program request for each of the n choices, and the warnings that the messages gave."""
    prompt, warnings = await asyncio.to_thread(read_messages, body.messages, service.config, service.tokenizer)
    request_id = f"chatcmpl-{uuid.uuid4().hex}"
    first = resolve(body, request_id, prompt, service.config, service.tokenizer, service.voice.engine.capacity())
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
            name = body.audio.format if body.audio is not None else "wav"
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
    if body.speechlm is not None and body.speechlm.return_ids:
        message["speechlm"] = {
            "text_ids": reply.text_ids,
            "codes": reply.codes,
            "cached_tokens": reply.cached_tokens,
            "warnings": warnings,
        }
    elif warnings:
        message["speechlm"] = {"warnings": warnings}
    return {"index": index, "message": message, "finish_reason": reply.finish.reason}, reply


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


async def _streamed(service: Service, body: ChatRequest) -> Response:
    if wants_audio(body):
        raise bad_field("stream", "audio is not streamed yet; ask for it without stream")
    if body.n not in (None, 1):
        raise bad_field("n", f"a stream has one choice; got {body.n}")
    requests, warnings = await _prepare(service, body)
    return StreamingResponse(_events(service, body, requests[0], warnings), media_type="text/event-stream")


async def _events(service: Service, body: ChatRequest, asked: Asked, warnings: tuple[str, ...]) -> AsyncIterator[bytes]:
    """OpenAI's chunks: the role, the text's deltas, the finish reason, the usage if asked for, [DONE]."""
    chunk = _chunks(asked.id.rpartition("-")[0], body.model or service.model_name)
    reply = Reply()
    yield chunk({"role": "assistant", "content": ""})
    try:
        async with aclosing(service.voice.reply(asked, reply)) as pieces:
            async for piece in pieces:
                if isinstance(piece, TextDelta):
                    yield chunk({"content": piece.text})
    except (StageRefused, CodecError) as error:
        yield _event(_refusal(error).body())
    else:
        assert reply.finish is not None
        ending: dict[str, Any] = {"speechlm": {"warnings": warnings}} if warnings else {}
        yield chunk(ending, finish_reason=reply.finish.reason)
        if body.stream_options is not None and body.stream_options.include_usage:
            yield chunk(None, usage=_usage(asked, (reply,)))
    yield b"data: [DONE]\n\n"


def _chunks(request_id: str, model: str) -> Callable[..., bytes]:
    """A maker of chunks of one stream; without a delta the chunk has no choice."""
    head = {"id": request_id, "object": "chat.completion.chunk", "created": int(time.time()), "model": model}

    def chunk(delta: dict[str, Any] | None, finish_reason: str | None = None, **more: Any) -> bytes:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
        return _event({**head, "choices": choices, **more})

    return chunk


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"
