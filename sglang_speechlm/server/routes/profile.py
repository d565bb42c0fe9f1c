"""POST /start_profile and POST /stop_profile: SGLang's own routes, with validated bodies."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from sglang_speechlm.server.edge.body import read_json
from sglang_speechlm.server.edge.errors import ApiError, bad_field
from sglang_speechlm.server.reading.schema import Count, Strict
from sglang_speechlm.server.routes.route import route
from sglang_speechlm.server.service import Service
from sglang_speechlm.sglang_hooks import http as sglang_http
from sglang_speechlm.sglang_hooks.profiles import ProfileReq

Name = Annotated[str, Field(max_length=100, pattern=r"^[\w.-]+$")]


class ProfileBody(Strict):
    """The body of POST /start_profile; all of its fields are SGLang's."""

    output_dir: Annotated[str, Field(pattern="^/")] | None = None
    start_step: Count | None = None
    num_steps: Count | None = None
    activities: Annotated[list[Literal["CPU", "GPU"]], Field(min_length=1, max_length=2)] | None = None
    profile_by_stage: bool = False
    with_stack: bool | None = None
    record_shapes: bool | None = None
    profile_id: Name | None = None
    merge_profiles: bool = False
    profile_prefix: Name | None = None
    detailed_annotations: bool = False


@route
async def start_profile(http: Request, _service: Service, _deadline: float) -> Response:
    """Start a profile."""
    has_body = http.headers.get("content-length", "0") != "0" or "transfer-encoding" in http.headers
    body = await read_json(http, ProfileBody) if has_body else ProfileBody()
    if body.profile_by_stage and body.num_steps is None:
        raise bad_field("num_steps", "is required with profile_by_stage")
    await _done(sglang_http.state().tokenizer_manager.start_profile(ProfileReq(**body.model_dump())))
    return Response("Start profiling.\n")


@route
async def stop_profile(_http: Request, _service: Service, _deadline: float) -> Response:
    """End the profile in progress, and write it."""
    await _done(sglang_http.state().tokenizer_manager.stop_profile())
    return Response("Stop profiling. This will take some time.\n")


async def _done(profiling: Awaitable[Any]) -> None:
    try:
        await profiling
    except RuntimeError as error:  # how SGLang reports that the scheduler refused
        raise ApiError(400, str(error)) from error
