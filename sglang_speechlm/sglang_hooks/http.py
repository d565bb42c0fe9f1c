"""Every place that touches SGLang's HTTP server, and uvicorn beneath it.

Import this module only where a server starts: SGLang's module imports all of SGLang.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn.config
from fastapi import FastAPI
from sglang.srt.entrypoints import http_server
from sglang.srt.entrypoints.v1_loads import router as loads
from sglang.srt.managers.tokenizer_manager import ServerStatus
from sglang.srt.utils import add_prometheus_middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from sglang_speechlm.sglang_hooks.types import GlobalState

app: FastAPI = http_server.app

_listening: list[uvicorn.Server] = []
"""Uvicorn's server, after ``launch`` has started it."""

_REPLACED = ("CORSMiddleware", "_ApiKeyASGIMiddleware", "RequestDecompressionMiddleware")
"""SGLang's middleware that the edge replaces: it admits every page, leaves routes without a key, and decompresses
bodies without a limit."""


def state() -> GlobalState:
    """Return SGLang's global state: its TokenizerManager and its scheduler's info; None before ``launch``."""
    state: GlobalState = http_server._global_state
    return state


def keep_routes(kept: Collection[str]) -> None:
    """Remove all routes from SGLang's application except these paths, and add its load figures and metrics.

    Routes with both GET and POST keep POST only, because they change the server.
    """
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", "") in kept]
    for route in app.router.routes:
        if isinstance(route, Route) and route.methods and "POST" in route.methods:
            route.methods = {"POST"}
    app.include_router(loads)  # FastAPI may keep an included router whole, so the loop above would not find its paths
    app.router.redirect_slashes = False
    _put_in_place(add_prometheus_middleware=_add_metrics)


def surround(edge: Callable[[ASGIApp], ASGIApp]) -> None:
    """Put ``edge`` around SGLang's application, and remove the middleware that ``edge`` replaces."""
    build = app.build_middleware_stack

    def build_stack() -> ASGIApp:  # runs on the first request, after SGLang has added its middleware
        app.user_middleware[:] = [
            layer for layer in app.user_middleware if getattr(layer.cls, "__name__", "") not in _REPLACED
        ]
        return edge(_past_the_metrics(build()))

    app.build_middleware_stack = build_stack  # type: ignore[method-assign]


def _past_the_metrics(stack: ASGIApp) -> ASGIApp:
    """Answer requests that no route takes outside of SGLang's middleware.

    Its metrics would keep every path and every method that a client makes up, for the lifetime of the server.
    """
    refusing = ExceptionMiddleware(app.router, app.exception_handlers)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        is_taken = scope["type"] != "http" or any(route.matches(scope)[0] is Match.FULL for route in app.router.routes)
        await (stack if is_taken else refusing)(scope, receive, send)

    return answer


async def server_info() -> Any:
    """Return SGLang's answer to ``GET /server_info``, including its secrets."""
    return await http_server.server_info()


def mark_up() -> None:
    """Mark the server as up for SGLang's health checks."""
    state().tokenizer_manager.server_status = ServerStatus.Up


def launch(server_args: Any, protocol: str, **functions: Any) -> None:
    """Start SGLang's processes and serve its application until the HTTP server is stopped.

    Args:
        server_args: SGLang's ServerArgs.
        protocol: the class that reads and writes HTTP on a connection, as ``module:class``. SGLang passes none to
            uvicorn, which then uses the one named "auto".
        functions: this package's functions, by the parameter names of ``launch_server``.
    """
    uvicorn.Server.capture_signals = _leave_signals  # type: ignore[method-assign, assignment]
    uvicorn.config.HTTP_PROTOCOLS["auto"] = protocol
    _put_in_place(_freeze_gc_after_server_warmup=_freeze_objects)
    http_server.launch_server(server_args, **functions)


def stop_listening() -> None:
    """Make the HTTP server send its buffers, close its connections and return from ``launch``."""
    for server in _listening:
        server.should_exit = True


@contextmanager
def _leave_signals(server: uvicorn.Server) -> Iterator[None]:
    """IN PLACE OF Server.capture_signals, which would lose a signal that arrives before the application has started.

    Until the application handles signals, they end the process, as by default.
    """
    _listening.append(server)
    yield


def _put_in_place(**functions: Callable[..., Any]) -> None:
    """Replace functions of SGLang's module.

    Raises:
        RuntimeError: if it has no such function.
    """
    for name, function in functions.items():
        if not hasattr(http_server, name):
            raise RuntimeError(f"SGLang's {http_server.__name__}.{name} was not found (wrong SGLang version?)")
        setattr(http_server, name, function)


def _freeze_objects(_server_args: Any) -> None:
    """IN PLACE OF ``_freeze_gc_after_server_warmup``, which asks its own server over a route that all clients have.

    After the warm-up, all processes exclude their objects from garbage collection: these stay alive anyway.
    """
    manager = state().tokenizer_manager
    asyncio.run_coroutine_threadsafe(manager.freeze_gc(), manager.event_loop).result()


def _add_metrics(application: FastAPI) -> None:
    """IN PLACE OF ``add_prometheus_middleware``, whose route accepts every method and every path with its prefix."""
    add_prometheus_middleware(application)
    mount: Any = application.router.routes.pop()

    async def metrics(_request: Request) -> Any:
        return mount.app  # an ASGI application works as a response: it is called with the rest of the request

    application.add_route("/metrics", metrics, methods=["GET"])
