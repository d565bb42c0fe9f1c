"""SGLang's FastAPI application with our routes in place of those that this model does not serve."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from sglang.srt.entrypoints import http_server
from sglang.srt.entrypoints.v1_loads import router as loads
from starlette.middleware import Middleware

from sglang_speechlm.codec import Spawned
from sglang_speechlm.options.server import OwnOptions
from sglang_speechlm.server.edge.keys import without_secrets
from sglang_speechlm.server.edge.limits import BodyLimit
from sglang_speechlm.server.edge.refusals import answer_in_one_shape
from sglang_speechlm.server.edge.stack import behind_the_edge
from sglang_speechlm.server.page import page_routes
from sglang_speechlm.server.routes.chat import chat_completions
from sglang_speechlm.server.routes.generate import generate
from sglang_speechlm.server.routes.identity import worker_id
from sglang_speechlm.server.routes.speech import speech
from sglang_speechlm.server.routes.transcriptions import transcriptions
from sglang_speechlm.server.service import Service

_KEPT = (
    "/health", "/health_generate", "/model_info", "/get_model_info", "/v1/models",
    "/metrics", "/flush_cache", "/abort_request", "/get_load", "/openapi.json", "/docs",
)  # fmt: skip
"""Routes of SGLang's that are true of this model; the others speak of chat templates, embeddings or images."""


def install(
    app: FastAPI,
    state: Callable[[], Any],
    options: OwnOptions,
    keys: Sequence[str] = (),
    unlogged: Sequence[str] = (),
    codec: Spawned | None = None,
) -> None:
    """Put our routes and our lifespan into SGLang's application, before it starts.

    Args:
        app: SGLang's application.
        state: gives SGLang's global state once there is one.
        options: what the operator decided.
        keys: any of them opens the server; without one it is open to all.
        unlogged: beginnings of paths that are logged only when they fail.
        codec: its process, where it is there already.
    """
    served = (*_KEPT, *(f"{path}/" for path in _KEPT))
    app.router.routes[:] = [
        route
        for route in app.router.routes
        if (path := getattr(route, "path", "")) in served or path.startswith(("/v1/models/", "/metrics"))
    ]
    app.include_router(loads)  # FastAPI may keep an included router whole, so that its paths are not found above
    app.add_api_route("/generate", generate, methods=["POST", "PUT"])
    for path in ("/server_info", "/get_server_info"):
        app.add_api_route(path, _server_info, methods=["GET"])
    app.add_route("/v1/chat/completions", chat_completions, methods=["POST"])
    app.add_route("/v1/audio/speech", speech, methods=["POST"])
    app.add_route("/v1/audio/transcriptions", transcriptions, methods=["POST"])
    app.add_route("/worker_id", worker_id, methods=["GET"])
    app.router.routes.extend(page_routes())
    # Innermost, so that it counts what a compressed body unfolds to.
    app.user_middleware.append(Middleware(BodyLimit, max_bytes=options.max_body_bytes))
    answer_in_one_shape(app)
    build = app.build_middleware_stack
    app.build_middleware_stack = lambda: behind_the_edge(build(), keys, unlogged)  # type: ignore[method-assign]
    lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def with_service(app: FastAPI) -> AsyncIterator[Any]:
        service = Service(state(), options, codec)
        await service.start()
        app.state.speechlm = service
        try:
            original: AbstractAsyncContextManager[Any] = lifespan(app)
            async with original as lifespan_state:
                yield lifespan_state
        finally:
            await service.stop()

    app.router.lifespan_context = with_service


async def _server_info() -> Any:
    """SGLang's, whose options hold the keys: who has one of them is not to learn the other."""
    return without_secrets(await http_server.server_info())
