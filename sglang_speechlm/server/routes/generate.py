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
from sglang_speechlm.server.edge.sse import DONE, MEDIA_TYPE, event
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
from sglang_speechlm.server.routes.streams import ClosingStream, Items, begin, merged
from sglang_speechlm.server.service import Service
from sglang_speechlm.sglang_hooks.requests import GenerateReqInput
from sglang_speechlm.stage import FRAMES, StageParams, frames_of

_MAX_ANSWERS = 128
"""Maximum answers of one request; SGLang prepares all of them while every other request waits."""
_MAX_TEXT_IDS = 100_000
"""Maximum token ids of all texts of one request, as in a body that has token ids."""
_MAX_IDS = 1024
"""Maximum length of a list that the scheduler traverses for every answer."""
_MAX_PROBABILITIES = 500_000
"""Maximum probabilities of all answers to one request: writing them takes half a second, in which nothing else runs."""
_MAX_STREAMED_PROBABILITIES = 50_000
"""Maximum probabilities of a stream, each of whose events repeats all of them."""
_DEFAULT_NEW_TOKENS = 128
"""SGLang's."""

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
    await asyncio.to_thread(_check, body, service)
    if body.text is not None:  # SGLang would encode it while every other request waits
        body.input_ids = await asyncio.to_thread(_encode, body.text, service)
    request, names = _request(body)
    _check_probabilities(body, request, service.responder.engine.capacity())
    outputs = await begin(http, merged([_outputs(service, request, names)], deadline))
    if body.stream:
        return ClosingStream(_events(outputs), outputs, MEDIA_TYPE)
    async with aclosing(outputs):
        _, output = await anext(outputs)
    return Response(orjson.dumps(output), media_type="application/json")


def _request(body: GenerateBody) -> tuple[GenerateReqInput, dict[str, str]]:
    """Return SGLang's request, with a prompt for each answer.

    SGLang itself would give the ``n`` answers to a prompt unknown ids, so that they could not be aborted.

    Returns:
        The request, and the client's id of each of SGLang's. The latter are of equal length, because SGLang aborts by
        prefix and gives some ids a meaning.
    """
    fields = body.model_dump(exclude_none=True, exclude_unset=True, exclude={"rid", "text"})
    several = body.count is not None
    prompts = fields.pop("input_ids") if several else [fields.pop("input_ids")]
    params = fields.pop("sampling_params", {})
    answers: list[tuple[str, list[int], dict[str, Any]]] = []
    for i, prompt in enumerate(prompts):
        sampling = dict(params[i] if isinstance(params, list) else params)
        name = uuid.uuid4().hex if body.rid is None else f"{body.rid}_{i}" if several else body.rid
        answers += [(name, prompt, sampling)] * sampling.pop("n", 1)
    ids = [uuid.uuid4().hex for _ in answers]
    names = {rid: name for rid, (name, _, _) in zip(ids, answers, strict=True)}
    if not several and len(answers) == 1:
        return GenerateReqInput(rid=ids[0], input_ids=prompts[0], sampling_params=answers[0][2], **fields), names
    return (
        GenerateReqInput(
            rid=ids,
            input_ids=[prompt for _, prompt, _ in answers],
            sampling_params=[sampling for _, _, sampling in answers],
            **fields,
        ),
        names,
    )


async def _outputs(service: Service, request: GenerateReqInput, names: Mapping[str, str]) -> AsyncGenerator[Any]:
    """Yield SGLang's outputs under the client's ids. Closing the iterator aborts the request.

    Raises:
        ApiError: 400 if one of these ids is in use.
        StageRefused: if SGLang refuses the request.
    """
    if taken := service.generating.keys() & names.values():
        raise bad_field("rid", f"is already the id of a running request; got {shown(min(taken))}")
    for rid, name in names.items():
        service.generating.setdefault(name, []).append(rid)
    # If SGLang refuses one answer, it does not report the others: a retry could generate them again.
    begun = len(names) > 1
    try:
        async with aclosing(service.responder.engine.outputs(request, begun=begun)) as outputs:
            async for output in outputs:
                for answer in output if isinstance(output, list) else [output]:
                    meta = answer["meta_info"]
                    if FRAMES in meta:
                        meta[FRAMES] = frames_of(meta[FRAMES], service.config.num_stream).tolist()
                    meta["id"] = names[meta["id"]]
                yield output
    finally:
        for name in set(names.values()):
            del service.generating[name]


async def _events(outputs: Items[tuple[int, Any]]) -> AsyncGenerator[bytes]:
    try:
        async for _, output in outputs:
            if output is not None:
                yield event(output)
    except REFUSALS as error:
        yield event(refusal(error).body())
    yield DONE


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
    for rid in service.generating.get(body.rid or "", ()):
        service.responder.engine.abort(rid)
    return Response()


def _check(body: GenerateBody, service: Service) -> None:
    if (body.text is None) == (body.input_ids is None):
        raise bad_field("text", "exactly one of text and input_ids must be given")
    count = body.count
    params = body.sampling_params
    if isinstance(params, list) and len(params) != count:
        raise bad_field("sampling_params", f"must be one object, or one for each prompt; got {len(params)}")
    settings = [sampling for sampling in (params if isinstance(params, list) else [params]) if sampling is not None]
    choices = max((sampling.n or 1 for sampling in settings), default=1)
    if (count or 1) * choices > _MAX_ANSWERS:
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


def _check_probabilities(body: GenerateBody, request: GenerateReqInput, capacity: int) -> None:
    """Refuse an answer that a short request makes very long: it may have probabilities of many ids at each position.

    Raises:
        ApiError: 400 if there may be too many.
    """
    if not body.return_logprob:
        return
    per_position = 1 + (body.top_logprobs_num or 0) + len(body.token_ids_logprob or ())
    start = -1 if body.logprob_start_len is None else body.logprob_start_len
    is_list = isinstance(request.rid, list)
    positions = 0
    for prompt, sampling in zip(
        request.input_ids if is_list else [request.input_ids],
        request.sampling_params if is_list else [request.sampling_params],
        strict=True,
    ):
        positions += max(0, len(prompt) - start) if start >= 0 else 0
        positions += max(0, min(sampling.get("max_new_tokens", _DEFAULT_NEW_TOKENS), capacity - len(prompt)))
    most = _MAX_STREAMED_PROBABILITIES if body.stream else _MAX_PROBABILITIES
    if positions * per_position > most:
        raise bad_field(
            "return_logprob",
            f"{'a stream' if body.stream else 'an answer'} must not have more than {most} probabilities; got up to "
            f"{positions} positions times {per_position} (1 + top_logprobs_num + token_ids_logprob)",
        )


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
