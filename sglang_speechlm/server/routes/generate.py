"""POST /generate and POST /abort_request: SGLang's own routes, with validated bodies.

SGLang passes a body's values on to its scheduler, where a value of the wrong type ends the process. This module only
accepts the fields that SGLang's frontend language and this runtime's own tools use, each with its type and range.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from starlette.requests import Request
from starlette.responses import Response

from sglang_speechlm.server.edge.body import read_json
from sglang_speechlm.server.edge.errors import bad_field, shown
from sglang_speechlm.server.reading.resolve import check_ids
from sglang_speechlm.server.reading.schema import (
    Count,
    Penalty,
    Probability,
    RepetitionPenalty,
    Seed,
    Share,
    Stop,
    Strict,
    Temperature,
    TopK,
    top_k_is_positive_or_all,
)
from sglang_speechlm.server.routes.route import REFUSALS, refusal, route
from sglang_speechlm.server.routes.streams import ClosingStream, Items, begin, event, merged
from sglang_speechlm.server.service import Service
from sglang_speechlm.sglang_hooks.requests import GenerateReqInput
from sglang_speechlm.stage import FRAMES, StageParams, frames_of

_MAX_ANSWERS = 128
"""Maximum answers of one request; SGLang prepares all of them while every other request waits."""
_MAX_TEXT_IDS = 100_000
"""Maximum token ids of all texts of one request, as in a body that has token ids."""
_MAX_IDS = 1024
"""Maximum length of a list that the scheduler traverses for every answer."""

_SEVERAL = Field(min_length=1, max_length=_MAX_ANSWERS)
Text = Annotated[str, Field(min_length=1)]
Id = Annotated[int, Field(ge=0, lt=2**31)]
Ids = Annotated[list[Id], Field(min_length=1, fail_fast=True)]
CountOrZero = Annotated[int, Field(ge=0, le=2**31 - 1)]


class SamplingParams(Strict):
    """SGLang's sampling parameters, as its frontend language sends them (null means SGLang's default)."""

    max_new_tokens: CountOrZero | None = None
    min_new_tokens: CountOrZero | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    stop: Stop | None = None
    stop_token_ids: Annotated[list[Id], Field(max_length=_MAX_IDS)] | None = None
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
    custom_params: StageParams | None = None

    _top_k = field_validator("top_k")(top_k_is_positive_or_all)

    @model_validator(mode="after")
    def _frames_are_sampled_plainly(self) -> SamplingParams:
        if self.custom_params is not None and self.custom_params.audio:
            neutral = {"frequency_penalty": 0, "presence_penalty": 0, "repetition_penalty": 1, "min_new_tokens": 0}
            for name, value in neutral.items():
                if getattr(self, name) not in (None, value):
                    raise ValueError(f"{name} cannot be combined with custom_params.audio")
        return self


class GenerateBody(Strict):
    """The body of POST /generate."""

    text: Text | Annotated[list[Text], _SEVERAL] | None = None
    input_ids: Ids | Annotated[list[Ids], _SEVERAL] | None = None
    sampling_params: SamplingParams | Annotated[list[SamplingParams], _SEVERAL] | None = None
    rid: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\w.-]+$")] | None = None
    stream: bool | None = None
    return_logprob: bool | None = None
    return_text_in_logprobs: bool | None = None
    logprob_start_len: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    top_logprobs_num: Annotated[int, Field(ge=0, le=100)] | None = None
    token_ids_logprob: Annotated[Ids, Field(max_length=_MAX_IDS)] | None = None

    @property
    def count(self) -> int | None:
        """Return the number of prompts; None for a single prompt outside a list."""
        prompts = self.text if self.text is not None else self.input_ids
        return len(prompts) if isinstance(prompts, list) and not isinstance(prompts[0], int) else None


@route
async def generate(http: Request, service: Service, deadline: float) -> Response:
    """Return SGLang's answer to a valid body, complete or as server-sent events."""
    body = await read_json(http, GenerateBody)
    answers = await asyncio.to_thread(_check, body, service)
    if body.text is not None:  # SGLang would encode it while every other request waits
        body.input_ids = await asyncio.to_thread(_encode, body.text, service)
    request = GenerateReqInput(**body.model_dump(exclude_none=True, exclude_unset=True, exclude={"rid", "text"}))
    names = _name(request, body.rid, body.count)
    outputs = await begin(http, merged([_outputs(service, request, names, begun=answers > 1)], deadline))
    if body.stream:
        return ClosingStream(_events(outputs), outputs, "text/event-stream")
    async with aclosing(outputs):
        _, output = await anext(outputs)
    return Response(orjson.dumps(output), media_type="application/json")


def _name(request: GenerateReqInput, rid: str | None, count: int | None) -> dict[str, str]:
    """Assign a request internal ids of equal length, because SGLang aborts by prefix and gives some ids a meaning.

    Returns:
        The client's name of each internal id.
    """
    if count is None:
        request.rid = uuid.uuid4().hex
        return {request.rid: rid or request.rid}
    request.rid = [uuid.uuid4().hex for _ in range(count)]
    return {own: own if rid is None else f"{rid}_{i}" for i, own in enumerate(request.rid)}


async def _outputs(
    service: Service, request: GenerateReqInput, names: Mapping[str, str], *, begun: bool
) -> AsyncGenerator[Any]:
    """Yield SGLang's outputs under the client's ids. Closing the iterator aborts the request.

    ``begun`` states that a refusal may throw away work: SGLang tells nothing of the other answers if one is refused.

    Raises:
        ApiError: 400 if one of these ids is in use.
        StageRefused: if SGLang refuses the request.
    """
    if taken := service.generating.keys() & names.values():
        raise bad_field("rid", f"is already the id of a running request; got {shown(min(taken))}")
    service.generating |= {name: rid for rid, name in names.items()}
    try:
        async with aclosing(service.responder.engine.outputs(request, begun=begun)) as outputs:
            async for output in outputs:
                for answer in output if isinstance(output, list) else [output]:
                    meta = answer["meta_info"]
                    if FRAMES in meta:
                        meta[FRAMES] = frames_of(meta[FRAMES], service.config.num_stream).tolist()
                    own = meta["id"].partition("_")[0]  # SGLang appends a suffix for each of several choices
                    meta["id"] = names.get(own, own)
                yield output
    finally:
        for name in names.values():
            del service.generating[name]


async def _events(outputs: Items[tuple[int, Any]]) -> AsyncGenerator[bytes]:
    try:
        async for _, output in outputs:
            if output is not None:
                yield event(output)
    except REFUSALS as error:
        yield event(refusal(error).body())
    yield b"data: [DONE]\n\n"


class AbortBody(BaseModel):
    """The body of POST /abort_request, without SGLang's internal fields."""

    model_config = ConfigDict(strict=True, extra="ignore")

    rid: Annotated[str, Field(max_length=220)] | None = None
    abort_all: bool = False


@route
async def abort_request(http: Request, service: Service, deadline: float) -> Response:
    """Abort a request to /generate by its id, or everything that runs. An unknown id has no effect."""
    body = await read_json(http, AbortBody)
    if body.abort_all:
        service.responder.engine.abort_all()
    elif body.rid in service.generating:
        service.responder.engine.abort(service.generating[body.rid])
    return Response()


def _check(body: GenerateBody, service: Service) -> int:
    """Return the number of answers.

    Raises:
        ApiError: 400 if fields contradict each other, or ask for too much.
    """
    if (body.text is None) == (body.input_ids is None):
        raise bad_field("text", "exactly one of text and input_ids must be given")
    count = body.count
    params = body.sampling_params
    if isinstance(params, list) and len(params) != count:
        raise bad_field("sampling_params", f"must be one object, or one for each prompt; got {len(params)}")
    settings = [sampling for sampling in (params if isinstance(params, list) else [params]) if sampling is not None]
    choices = max((sampling.n or 1 for sampling in settings), default=1)
    answers = (count or 1) * choices
    if answers > _MAX_ANSWERS:
        raise bad_field(
            "sampling_params.n",
            f"prompts times n must not exceed {_MAX_ANSWERS}; got {count or 1} times {choices}",
        )
    prompts: Any = body.input_ids or ()
    for ids in prompts if count is not None else (prompts,):
        check_ids("input_ids", ids, service.config)
    check_ids("token_ids_logprob", body.token_ids_logprob or (), service.config)
    for sampling in settings:
        check_ids("sampling_params.stop_token_ids", sampling.stop_token_ids or (), service.config)
    return answers


def _encode(text: str | list[str], service: Service) -> list[int] | list[list[int]]:
    """Return the token ids of a text, or of several.

    Raises:
        ApiError: 400 for too many ids.
    """
    found: list[list[int]] = []
    for part in [text] if isinstance(text, str) else text:
        try:
            found.append(service.tokenizer.encode_with_names(part, service.messages.capacity))
        except ValueError as error:
            raise bad_field("text", str(error)) from error
        if sum(map(len, found)) > _MAX_TEXT_IDS:
            raise bad_field("text", f"all texts together must not have more than {_MAX_TEXT_IDS} tokens")
    return found[0] if isinstance(text, str) else found
