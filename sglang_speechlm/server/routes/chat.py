"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import orjson
from starlette.requests import Request
from starlette.responses import Response

from sglang_speechlm.codec.files import RATE_HEADER, SoundFormat
from sglang_speechlm.program.request import ReplyRequest, following_seed
from sglang_speechlm.prompt.thinking import Reasoning
from sglang_speechlm.prompt.tools import CallRules
from sglang_speechlm.server.edge.body import read_json
from sglang_speechlm.server.edge.connection import unless_gone
from sglang_speechlm.server.edge.errors import bad_field
from sglang_speechlm.server.edge.sse import MEDIA_TYPE
from sglang_speechlm.server.edge.warnings import Warnings
from sglang_speechlm.server.reading.resolve import unused, wants_audio
from sglang_speechlm.server.reading.schema import ChatRequest
from sglang_speechlm.server.reading.tools import call_rules
from sglang_speechlm.server.routes.chat_answer import ChatAnswer
from sglang_speechlm.server.routes.route import route
from sglang_speechlm.server.routes.streams import ClosingStream, begin, merged
from sglang_speechlm.server.service import Service


@route
async def chat_completions(http: Request, service: Service, deadline: float) -> Response:
    """Answer one chat request, completely or as a stream of server-sent events."""
    body = await read_json(http, ChatRequest)
    warnings = Warnings.of(http)
    output = _check(service, body, warnings)
    calls = _call_rules(service, body, warnings)
    requests = await unless_gone(http, _prepare(service, body, calls, warnings))
    replies = [service.responder.reply(request, output.rate) for request in requests]
    answer = ChatAnswer(service, body, output, replies, warnings)
    pieces = merged(replies, deadline)
    if not body.stream:
        return Response(await unless_gone(http, answer.whole(pieces)), media_type="application/json")
    begun = await begin(http, pieces)
    headers = {RATE_HEADER: str(output.rate)} if wants_audio(body) else {}
    return ClosingStream(answer.events(begun), begun, MEDIA_TYPE, headers)


def _check(service: Service, body: ChatRequest, warnings: Warnings) -> SoundFormat:
    """Refuse contradictory fields before any clip is read. Return the format of the sound.

    Raises:
        ApiError: for a field that contradicts another one.
    """
    service.check_model(body.model)
    warnings.add(*body.unread())
    name = None if body.audio is None else body.audio.format
    output = service.output(name or ("pcm16" if body.stream else "wav"), body.sample_rate)
    if body.text_schema is not None:
        _check_structured(body, "response_format")
    if wants_audio(body):
        if body.stream and output.name != "pcm16":
            raise bad_field("audio.format", f'a stream needs "pcm16"; got {output.name!r}')
    else:
        for field in ("audio", "sample_rate"):
            if getattr(body, field) is not None:
                warnings.add(f'{field}: not used; spoken answers need "modalities": ["text", "audio"]')
    is_given = body.speechlm is not None and body.speechlm.text is not None
    warnings.add(*unused(body, is_spoken=wants_audio(body), is_given=is_given))
    return output


def _call_rules(service: Service, body: ChatRequest, warnings: Warnings) -> CallRules | None:
    """Return which functions the text may call; None if it may call none.

    Raises:
        ApiError: if a field contradicts another one, or if the model was not trained to call functions.
    """
    rules = call_rules(body.tools, body.tool_choice, body.parallel_tool_calls, warnings)
    if rules is None:
        return None
    if service.options.preset.tools == "none":
        raise bad_field(
            "tools",
            f"{service.model_name!r} was not trained to call functions (its preset has no 'tools', and the server was "
            "started without --tool-call-parser); leave it out, or set tool_choice to 'none'",
        )
    _check_structured(body, "tools")
    if body.text_schema is not None and not rules.is_required:
        raise bad_field("response_format", "cannot be combined with tools unless tool_choice requires a call")
    return rules


def _check_structured(body: ChatRequest, field: str) -> None:
    """Refuse fields that contradict the structure of the text that ``field`` requires."""
    if body.speechlm is not None and body.speechlm.text is not None:
        raise bad_field(field, "cannot be combined with speechlm.text")
    if body.min_tokens:
        raise bad_field("min_tokens", f"cannot be combined with {field}; got {body.min_tokens}")


async def _prepare(
    service: Service, body: ChatRequest, calls: CallRules | None, warnings: Warnings
) -> list[ReplyRequest]:
    """Return the request of each of the n choices."""
    prompt = await service.messages.read(
        body.messages, warnings, speaks=wants_audio(body), functions=() if calls is None else calls.functions
    )
    first = await asyncio.to_thread(service.resolve, body, "chatcmpl", prompt)
    reasoning: Reasoning = "none" if body.separate_reasoning is False else service.options.preset.reasoning
    if calls is not None:
        reasoning = "none" if calls.is_required else reasoning
        first = replace(first, text=replace(first.text, calls=calls))
    elif (schema := body.text_schema) is not None:
        # A text that is JSON from its first character on contains no thinking.
        first, reasoning = replace(first, text=replace(first.text, json_schema=orjson.dumps(schema).decode())), "none"
    # The choices' seeds are derived from the first one's, so that a seed determines all of them.
    return [
        replace(first, id=f"{first.id}-{i}", seed=following_seed(first.seed, i), reasoning=reasoning)
        for i in range(body.n or 1)
    ]
