"""What the application itself refuses, in the same shape as what the routes refuse."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sglang_speechlm.server.edge.errors import ApiError


def answer_in_one_shape(app: FastAPI) -> None:
    """Have unknown routes, wrong methods, unreadable bodies, failures and missing keys give OpenAI's error object."""
    handlers: dict[type[Exception], Any] = {
        ApiError: _ours,
        StarletteHTTPException: _http,
        HTTPException: _http,  # SGLang registers its own for this one
        RequestValidationError: _unreadable,
        ValueError: _wrong,
        Exception: _failed,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
    build = app.build_middleware_stack
    # SGLang's check of the key is put around the application later than this; ours must be around it.
    app.build_middleware_stack = lambda: _KeyRefusals(build())  # type: ignore[method-assign]


async def _ours(_http_request: Request, error: ApiError) -> Response:
    return error.response()


async def _http(request: Request, error: StarletteHTTPException) -> Response:
    place = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return ApiError(404, f"{place}: there is no such route here").response()
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow")
        return ApiError(405, f"{place}: only {allow} is served here", allow=allow).response()
    # SGLang answers with 503 where a stage was refused or given up before it had begun.
    retry_after = 1 if error.status_code == 503 else None
    return ApiError(error.status_code, str(error.detail), retry_after=retry_after).response()


async def _unreadable(_request: Request, error: RequestValidationError) -> Response:
    first: dict[str, Any] = next(iter(error.errors()), {})
    if first.get("type") == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first['ctx']['error']}").response()
    field = ".".join(str(part) for part in first.get("loc", ()) if part != "body") or "body"
    return ApiError(400, f"{field}: {first.get('msg', 'could not be read')}", field).response()


async def _wrong(_request: Request, error: ValueError) -> Response:
    """How SGLang's own routes say that a request is wrong."""
    return ApiError(400, str(error)).response()


async def _failed(_request: Request, _error: Exception) -> Response:
    return ApiError(500, "the server failed to answer; its log says why").response()


class _KeyRefusals:
    """Gives the refusals of SGLang's key check (a bare string) the shape of all others."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal: Response | None = None

        async def reshaped(message: Message) -> None:
            nonlocal refusal
            if message["type"] == "http.response.start" and message["status"] in (401, 403):
                refusal = ApiError(message["status"], "the API key is missing or wrong").response()
                await refusal(scope, receive, send)
            elif refusal is None:
                await send(message)

        await self._app(scope, receive, reshaped)
