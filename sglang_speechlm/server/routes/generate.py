"""POST /generate: SGLang's own route, behind a check of what it is sent.

SGLang takes what a body says on to its scheduler, where a value of the wrong kind ends the process. Only the fields
that SGLang's frontend language and this runtime's own tools use are let through, each with its type and range.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Annotated, Any

import orjson
from pydantic import Field, ValidationError, model_validator
from sglang.srt.entrypoints.http_server import generate_request
from sglang.srt.managers.io_struct import GenerateReqInput
from starlette.background import BackgroundTask, BackgroundTasks
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from sglang_speechlm.server.edge.errors import ApiError, bad_field, from_validation
from sglang_speechlm.server.reading.schema import (
    Count,
    Guidance,
    Penalty,
    Probability,
    RepetitionPenalty,
    Seed,
    Share,
    Stop,
    Strict,
    Temperature,
    TopK,
)
from sglang_speechlm.server.service import Service

Text = Annotated[str, Field(min_length=1)]
Id = Annotated[int, Field(ge=0, lt=2**31)]
Ids = Annotated[list[Id], Field(min_length=1)]
CountOrZero = Annotated[int, Field(ge=0, le=2**31 - 1)]


class CustomParams(Strict):
    """What makes a stage continue in frames."""

    audio: bool = False
    min_frames: CountOrZero = 0
    cfg: Guidance = 1.0


class SamplingParams(Strict):
    """SGLang's sampling parameters, as its frontend language sends them (null is SGLang's default)."""

    max_new_tokens: CountOrZero | None = None
    min_new_tokens: CountOrZero | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    stop: Stop | None = None
    stop_token_ids: list[Id] | None = None
    stop_regex: Annotated[list[str], Field(max_length=0)] | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_k: TopK | None = None
    min_p: Share | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    ignore_eos: bool | None = None
    regex: None = None
    json_schema: None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    no_stop_trim: bool | None = None
    stream_interval: Count | None = None
    sampling_seed: Seed | None = None
    custom_params: CustomParams | None = None

    @model_validator(mode="after")
    def _frames_are_sampled_plainly(self) -> SamplingParams:
        if self.custom_params is not None and self.custom_params.audio:
            neutral = {"frequency_penalty": 0, "presence_penalty": 0, "repetition_penalty": 1, "min_new_tokens": 0}
            for name, value in neutral.items():
                if getattr(self, name) not in (None, value):
                    raise ValueError(f"{name} does not go with custom_params.audio")
        return self


class GenerateBody(Strict):
    """The body of POST /generate."""

    text: Text | Annotated[list[Text], Field(min_length=1)] | None = None
    input_ids: Ids | Annotated[list[Ids], Field(min_length=1)] | None = None
    sampling_params: SamplingParams | Annotated[list[SamplingParams], Field(min_length=1)] | None = None
    rid: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\w.-]+$")] | None = None
    stream: bool | None = None
    return_logprob: bool | None = None
    return_text_in_logprobs: bool | None = None
    logprob_start_len: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    top_logprobs_num: Annotated[int, Field(ge=0, le=100)] | None = None
    token_ids_logprob: Ids | None = None


async def generate(obj: GenerateReqInput, request: Request) -> Response:
    """SGLang's answer to a body that is as it should be. One that takes too long ends early, as an "abort".

    Raises:
        ApiError: 400 naming the field that cannot be taken on.
    """
    await _check(request)
    service: Service = request.app.state.speechlm
    obj.rid = obj.rid or uuid.uuid4().hex
    limit = asyncio.get_running_loop().call_later(service.options.request_seconds, _end, obj, service)
    response: Response = await generate_request(obj, request)
    if isinstance(response, StreamingResponse) and isinstance(response.background, BackgroundTasks):
        response.background.tasks.insert(0, BackgroundTask(limit.cancel))
    else:
        limit.cancel()
    if response.status_code >= 400:
        message = orjson.loads(response.body)["error"]["message"]
        raise ApiError(response.status_code, message)
    return response


def _end(obj: GenerateReqInput, service: Service) -> None:
    """By now SGLang has given each prompt of several an id of its own."""
    for rid in [obj.rid] if isinstance(obj.rid, str) else obj.rid:
        service.voice.engine.abort(rid)


async def _check(http: Request) -> None:
    try:
        fields: Any = await http.json()
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ApiError(400, f"the body must be a JSON object; got {type(fields).__name__}")
    try:
        body = GenerateBody.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error, fields) from error
    if (body.text is None) == (body.input_ids is None):
        raise bad_field("text", "give either text or input_ids")
    prompts = body.text if body.text is not None else body.input_ids
    count = len(prompts) if isinstance(prompts, list) and not isinstance(prompts[0], int) else None
    if isinstance(body.sampling_params, list) and len(body.sampling_params) != count:
        raise bad_field("sampling_params", f"give one, or one for each prompt; got {len(body.sampling_params)}")
    service: Service = http.app.state.speechlm
    for text in [body.text or ""] if not isinstance(body.text, list) else body.text:
        try:
            service.tokenizer.check(text, service.messages.capacity)
        except ValueError as error:
            raise bad_field("text", str(error)) from error
    vocab_size = service.config.vocab_size
    for name, ids in (("input_ids", body.input_ids), ("token_ids_logprob", body.token_ids_logprob)):
        largest = max((max(part) if isinstance(part, list) else part for part in ids or ()), default=0)
        if largest >= vocab_size:
            raise bad_field(name, f"ids must be below {vocab_size}; got {largest}")
