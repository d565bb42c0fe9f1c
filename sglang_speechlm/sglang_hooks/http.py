"""SGLang's HTTP server, and uvicorn beneath it: every place where one of them is touched.

Import it where a server starts, and not before: SGLang's module brings all of SGLang with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn.config
from fastapi import FastAPI
from sglang.srt.entrypoints import http_server
from sglang.srt.entrypoints.v1_loads import router as loads
from sglang.srt.managers.tokenizer_manager import ServerStatus
from sglang.srt.utils import add_prometheus_middleware
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

app: FastAPI = http_server.app

_listening: list[uvicorn.Server] = []
"""Uvicorn's server, once ``launch`` has started it."""

_REPLACED = ("CORSMiddleware", "_ApiKeyASGIMiddleware", "RequestDecompressionMiddleware")
"""Middleware of SGLang's in whose place is ours: it lets every page in, leaves routes without a key, and unfolds bodies
without a bound."""


def state() -> Any:
    """SGLang's global state: its TokenizerManager and what its scheduler said of itself; None before ``launch``."""
    return http_server._global_state


def keep_routes(kept: Collection[str]) -> None:
    """Take all routes out of SGLang's application but those of these paths, and add its load figures and metrics.

    What changes the server is left to POST, also where SGLang takes GET.
    """
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", "") in kept]
    for route in app.router.routes:
        if isinstance(route, Route) and route.methods and "POST" in route.methods:
            route.methods = {"POST"}
    app.include_router(loads)  # FastAPI may keep an included router whole, so that its paths are not found above
    app.router.redirect_slashes = False
    http_server.add_prometheus_middleware = _add_metrics


def surround(edge: Callable[[ASGIApp], ASGIApp]) -> None:
    """Put ``edge`` around SGLang's application, and take out of it what ``edge`` replaces."""
    build = app.build_middleware_stack

    def build_stack() -> ASGIApp:  # when it is first called: SGLang has added its own by then
        app.user_middleware[:] = [
            each for each in app.user_middleware if getattr(each.cls, "__name__", "") not in _REPLACED
        ]
        return edge(build())

    app.build_middleware_stack = build_stack  # type: ignore[method-assign]


async def server_info() -> Any:
    """SGLang's answer to ``GET /server_info``, its secrets among it."""
    return await http_server.server_info()


def mark_up() -> None:
    """Have SGLang's health checks say that it serves."""
    state().tokenizer_manager.server_status = ServerStatus.Up


def launch(server_args: Any, protocol: str, **functions: Any) -> None:
    """Start SGLang's processes and serve its application until the HTTP server is told to stop.

    Args:
        server_args: SGLang's ServerArgs.
        protocol: the class that reads and writes HTTP on a connection, as ``module:class``; SGLang hands none to
            uvicorn, which then takes the one that is called "auto".
        functions: of ours, by the names that ``launch_server`` has for them.
    """
    uvicorn.Server.capture_signals = _leave_signals  # type: ignore[method-assign, assignment]
    uvicorn.config.HTTP_PROTOCOLS["auto"] = protocol
    http_server.launch_server(server_args, **functions)


def stop_listening() -> None:
    """Have the HTTP server send what is buffered, close its connections and return from ``launch``."""
    for server in _listening:
        server.should_exit = True


@contextmanager
def _leave_signals(server: uvicorn.Server) -> Iterator[None]:
    """IN PLACE OF Server.capture_signals, which would lose a signal that comes before the application has started.

    Until the application takes the signals over, they do what they do to any process: end it.
    """
    _listening.append(server)
    yield


def _add_metrics(application: FastAPI) -> None:
    """In place of ``add_prometheus_middleware``, whose route takes every method and every path that begins with it."""
    add_prometheus_middleware(application)
    mount: Any = application.router.routes.pop()

    async def metrics(_request: Request) -> Any:
        return mount.app  # an application is what a response is: called with the rest of the request

    application.add_route("/metrics", metrics, methods=["GET"])
