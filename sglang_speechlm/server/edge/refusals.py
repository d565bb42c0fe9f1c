"""Give the application's own refusals the form of the routes' errors."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import Request
from starlette.responses import Response

from sglang_speechlm.server.edge.errors import ApiError, bad_field, internal_error, method_not_allowed, shown
from sglang_speechlm.server.edge.wording import rule_of


def use_openai_errors(app: FastAPI) -> None:
    """Make unknown routes, wrong methods, invalid bodies and failures return OpenAI's error object."""
    handlers: dict[type[Exception], Any] = {
        ApiError: _api_error,
        StarletteHTTPException: _http,
        HTTPException: _http,  # replaces SGLang's own handler
        RequestValidationError: _unreadable,
        ValueError: _invalid_request,
        Exception: _failed,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


async def _api_error(_http_request: Request, error: ApiError) -> Response:
    return error.response()


async def _http(request: Request, error: StarletteHTTPException) -> Response:
    if error.status_code == 404:
        return _no_route(request).response()
    if error.status_code == 405:
        methods = (error.headers or {}).get("Allow", "").split(", ")
        return method_not_allowed(request.method, request.url.path, methods).response()
    # SGLang returns 503 if a stage was refused or given up before it had begun.
    retry_after = 1 if error.status_code == 503 else None
    return ApiError(error.status_code, str(error.detail), retry_after=retry_after).response()


def _no_route(request: Request) -> ApiError:
    """Return a 404 that names the routes: OpenAI has others, and a client's base URL may lack ``/v1`` or repeat it."""
    paths = {getattr(route, "path", "") for route in request.app.routes}
    usable = ", ".join(sorted(path for path in paths if path.startswith("/v1/") and "{" not in path))
    return ApiError(404, f"{request.method} {request.url.path}: no such route; OpenAI's clients can use {usable}")


async def _unreadable(_request: Request, error: RequestValidationError) -> Response:
    first: dict[str, Any] = next(iter(error.errors()), {})
    if first.get("type") == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first['ctx']['error']}").response()
    field = ".".join(str(part) for part in first.get("loc", ()) if part not in ("body", "query")) or "body"
    what = f"{rule_of(first)}; got {shown(first.get('input'))}" if first else "could not be read"  # type: ignore[arg-type]
    return bad_field(field, what).response()


async def _invalid_request(_request: Request, error: ValueError) -> Response:
    """Answer the exception that SGLang's own routes raise for an invalid request."""
    return ApiError(400, str(error)).response()


async def _failed(_request: Request, _error: Exception) -> Response:
    return internal_error().response()
