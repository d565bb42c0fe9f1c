"""SGLang's FastAPI application, with this package's routes, middleware and lifespan."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from starlette.types import ASGIApp

from sglang_speechlm.codec import Spawned
from sglang_speechlm.options.server import OwnOptions
from sglang_speechlm.process.stdio import silence_decoders
from sglang_speechlm.server.edge.keys import Keys, without_secrets
from sglang_speechlm.server.edge.refusals import use_openai_errors
from sglang_speechlm.server.edge.stack import behind_the_edge
from sglang_speechlm.server.page import page_routes
from sglang_speechlm.server.routes.chat import chat_completions
from sglang_speechlm.server.routes.generate import abort_request, generate
from sglang_speechlm.server.routes.health import health
from sglang_speechlm.server.routes.identity import worker_id
from sglang_speechlm.server.routes.models import list_audio_models, list_models, retrieve_model
from sglang_speechlm.server.routes.profile import start_profile, stop_profile
from sglang_speechlm.server.routes.speech import speech
from sglang_speechlm.server.routes.transcriptions import transcriptions, translations
from sglang_speechlm.server.routes.voices import voices
from sglang_speechlm.server.service import Service
from sglang_speechlm.sglang_hooks import http

_KEPT = (
    "/health_generate", "/model_info", "/get_model_info", "/flush_cache", "/openapi.json",
)  # fmt: skip
"""SGLang's routes that suit this model; the others are about chat templates, embeddings or images. ``/docs`` loads
scripts from elsewhere."""
_PROFILER_FOLDER = "SGLANG_TORCH_PROFILER_DIR"
"""SGLang's variable for a folder of profiles. Without it there are no routes for them: they can slow a server down."""


def install(
    server_args: Any, own: OwnOptions, gate: Callable[[ASGIApp], ASGIApp], codec: Spawned | None = None
) -> None:
    """Install routes, middleware and lifespan in SGLang's application, before it starts.

    Args:
        server_args: SGLang's ServerArgs.
        own: SpeechLM's own options.
        gate: refuses requests while the server starts or stops.
        codec: the codec process, if it has been spawned already.
    """
    app = http.app
    http.keep_routes(_KEPT)
    if os.environ.get(_PROFILER_FOLDER):
        app.add_route("/start_profile", start_profile, methods=["POST"])
        app.add_route("/stop_profile", stop_profile, methods=["POST"])
    app.add_api_route("/health", health, methods=["GET"])
    app.add_route("/generate", generate, methods=["POST", "PUT"])
    app.add_route("/abort_request", abort_request, methods=["POST"])
    for path in ("/server_info", "/get_server_info"):
        app.add_api_route(path, _server_info, methods=["GET"])
    app.add_route("/v1/chat/completions", chat_completions, methods=["POST"])
    app.add_route("/v1/audio/speech", speech, methods=["POST"])
    app.add_route("/v1/audio/transcriptions", transcriptions, methods=["POST"])
    app.add_route("/v1/audio/translations", translations, methods=["POST"])
    app.add_route("/v1/audio/voices", voices, methods=["GET"])
    app.add_route("/v1/audio/models", list_audio_models, methods=["GET"])
    app.add_route("/v1/models", list_models, methods=["GET"])
    app.add_route("/v1/models/{model:path}", retrieve_model, methods=["GET"])
    app.add_route("/worker_id", worker_id, methods=["GET"])
    app.router.routes.extend(page_routes())
    use_openai_errors(app)
    http.surround(
        partial(
            behind_the_edge,
            keys=Keys(server_args.api_key, server_args.admin_api_key),
            allowed_origins=own.allowed_origins,
            host=server_args.host,
            max_body_bytes=own.max_body_bytes,
            request_seconds=own.request_seconds,
            unlogged=server_args.uvicorn_access_log_exclude_prefixes,
            gate=gate,
        )
    )
    lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def with_service(app: FastAPI) -> AsyncIterator[Any]:
        silence_decoders()
        service = Service(http.state(), own, codec)
        await service.start()
        app.state.speechlm = service
        try:
            original: AbstractAsyncContextManager[Any] = lifespan(app)
            async with original as lifespan_state:
                yield lifespan_state
        finally:
            await service.stop()

    app.router.lifespan_context = with_service


async def _server_info(request: Request) -> Any:
    """SGLang's server info with the keys masked, so that one key does not reveal the other, and decoding defaults."""
    service: Service = request.app.state.speechlm
    return without_secrets(await http.server_info()) | {"decoding": service.config.decoding}
