"""POST /v1/audio/transcriptions: transcribe a clip."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from sglang_speechlm.audio import Clip
from sglang_speechlm.program.bounds import transcription_bound
from sglang_speechlm.program.reply import Reply, TextDelta
from sglang_speechlm.program.request import ReplyRequest
from sglang_speechlm.prompt.layout import lay_out
from sglang_speechlm.server.edge.body import check_count, read_form
from sglang_speechlm.server.edge.connection import unless_gone
from sglang_speechlm.server.edge.errors import ApiError, bad_field, from_validation
from sglang_speechlm.server.edge.warnings import Warnings
from sglang_speechlm.server.reading.resolve import wants_audio
from sglang_speechlm.server.reading.schema import TranscriptionRequest
from sglang_speechlm.server.routes.route import REFUSALS, refusal, route
from sglang_speechlm.server.routes.streams import ClosingStream, Items, begin, event, merged
from sglang_speechlm.server.service import Service

_CANNOT = ("timestamp_granularities", "include")
"""Fields for results that the model does not return."""
_OBJECTS = ("speechlm", "vllm_xargs", "logit_bias", "stop_token_ids")
"""Fields that a form has as JSON."""
_BRACKETED = re.compile(r"([^\[\]]+)\[([^\[\]]*)\]")


@dataclass(frozen=True, eq=False)
class _Upload:
    data: bytes
    format: str | None


@route
async def transcriptions(http: Request, service: Service, deadline: float) -> Response:
    """Transcribe a clip, as JSON, as text, or as server-sent events."""
    body, upload = await _read_form(http)
    service.check_model(body.model)
    if body.stream and body.response_format == "verbose_json":
        raise bad_field("response_format", "a stream needs 'json' or 'text'; got 'verbose_json'")
    warnings = Warnings.of(http)
    warnings.add(*body.unread())
    request, clip = await asyncio.to_thread(_prepare, service, body, upload, warnings)
    warnings.add(*(f"file: {warning}" for warning in clip.warnings))
    reply = service.responder.reply(request)
    pieces = _text(reply, deadline)
    if body.stream:
        begun = await begin(http, pieces)
        return ClosingStream(_events(begun, reply, warnings), begun, "text/event-stream")
    text = await unless_gone(http, _joined(pieces))
    _warn(reply, warnings)
    return _answer(body, text, reply, clip, warnings)


async def _read_form(http: Request) -> tuple[TranscriptionRequest, _Upload]:
    form = await read_form(http)
    items = form.multi_items()
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise bad_field("file", f"must be an uploaded file; got {'nothing' if file is None else 'text'}")
    format = (file.filename or "").rpartition(".")[2].lower() or None
    upload = _Upload(await file.read(), format)
    try:
        "".join(value for _, value in items if isinstance(value, str)).encode()
    except UnicodeError as error:
        raise ApiError(400, f"the form's text is not valid: {error}") from error
    fields = _unfolded(item for item in items if item[0] != "file")
    for name in _CANNOT:
        if name in fields:
            raise bad_field(name, "the model returns no timestamps or probabilities; leave it out")
    try:
        return TranscriptionRequest.model_validate(fields, strict=False), upload
    except ValidationError as error:
        raise from_validation(error, fields) from error


def _unfolded(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return a form's fields as in a JSON body: lists from ``name[]``, objects from ``name[member]`` or JSON.

    A form has no null: clients leave a field without a value empty.
    """
    fields: dict[str, Any] = {}
    for name, value in items:
        if value == "":
            continue
        if bracketed := _BRACKETED.fullmatch(name):
            name, member = bracketed.groups()
            found = fields.setdefault(name, {} if member else [])
            if member and isinstance(found, dict):
                found[member] = value
            elif not member and isinstance(found, list):
                found.append(value)
        elif name in _OBJECTS:
            check_count(value.encode())
            try:
                fields[name] = orjson.loads(value)
            except orjson.JSONDecodeError:
                fields[name] = value
        else:
            fields[name] = value
    return fields


def _prepare(
    service: Service, body: TranscriptionRequest, upload: _Upload, warnings: Warnings
) -> tuple[ReplyRequest, Clip]:
    if wants_audio(body):
        raise bad_field("speechlm.mode", "does not apply to transcriptions: they have no audio")
    if body.speechlm is not None and body.speechlm.return_ids:
        raise bad_field("speechlm.return_ids", "does not apply to transcriptions")
    heard, clip = service.messages.hear(upload.data, upload.format, "file")
    values = {"language": body.language, "prompt": body.prompt}
    preset = service.options.preset
    for name in preset.transcription.unused(values):
        warnings.add(f"{name}: not used, because this model was not trained to follow it")
    messages = preset.transcription.fill(values, service.encode, heard)
    prompt = lay_out(preset.with_system(messages, service.encode, speaks=False), service.config)
    capacity = service.responder.engine.capacity()
    if len(prompt.ids) + 1 >= capacity:
        raise bad_field("prompt", f"is too long: {len(prompt.ids)} tokens, limit {capacity} with the transcription")
    bound = transcription_bound(clip.seconds, preset.thinking_tokens)
    request = service.resolve(body, "transcription", prompt, text_bound=bound)
    return replace(request, reasoning=preset.reasoning), clip


async def _text(reply: Reply, deadline: float) -> AsyncGenerator[str]:
    """Yield the text as it arrives, without white space between thinking and text.

    Raises:
        ApiError: 504 at the deadline.
        StageRefused: from the reply.
    """
    has_begun = False
    async with aclosing(merged([reply], deadline)) as arrivals:
        async for _, piece in arrivals:
            if isinstance(piece, TextDelta):
                is_first = reply.split.reasoning is not None and not has_begun
                if text := piece.text.lstrip() if is_first else piece.text:
                    has_begun = True
                    yield text


async def _joined(pieces: AsyncGenerator[str]) -> str:
    async with aclosing(pieces):
        return "".join([piece async for piece in pieces])


def _answer(body: TranscriptionRequest, text: str, reply: Reply, clip: Clip, warnings: Warnings) -> Response:
    if body.response_format == "text":
        return PlainTextResponse(text)
    answer: dict[str, Any] = {"text": text}
    if body.response_format == "verbose_json":
        answer |= {
            "task": "transcribe",
            "language": body.language or "",
            "duration": clip.seconds,
            "usage": {"type": "duration", "seconds": clip.seconds},
        }
    else:
        answer["usage"] = _usage(reply)
    return Response(orjson.dumps(answer | warnings.member()), media_type="application/json")


async def _events(pieces: Items[str], reply: Reply, warnings: Warnings) -> AsyncGenerator[bytes]:
    """Yield OpenAI's events; or an error midway."""
    text = ""
    try:
        async for piece in pieces:
            text += piece
            yield event({"type": "transcript.text.delta", "delta": piece})
    except REFUSALS as error:
        yield event(refusal(error).body())
        return
    done = {"type": "transcript.text.done", "text": text, "usage": _usage(reply)}
    _warn(reply, warnings)
    yield event(done | warnings.member())


def _usage(reply: Reply) -> dict[str, Any]:
    prompt = reply.request.prompt
    read, made, heard = len(prompt.ids) + 1, reply.finish.tokens, prompt.audio_positions
    return {
        "type": "tokens",
        "input_tokens": read,
        "output_tokens": made,
        "total_tokens": read + made,
        "input_token_details": {"audio_tokens": heard, "text_tokens": read - heard},
    }


def _warn(reply: Reply, warnings: Warnings) -> None:
    """Add a warning if something cut the text; call it at the end."""
    warnings.add(*reply.finish.warnings)
    if reply.finish.reason == "length" and not reply.finish.warnings:
        used = "max_tokens" if reply.finish.tokens >= reply.request.max_tokens else "the context length"
        warnings.add(f"the text was cut: it reached {used} ({reply.finish.tokens} tokens)")
