"""A small application behind the edge, served with the HTTP protocol of servers and fronts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sglang_speechlm.server.edge.keys import Keys
from sglang_speechlm.server.edge.protocol import PROTOCOL
from sglang_speechlm.server.edge.stack import behind_the_edge


@contextlib.contextmanager
def served_edge(keys: Keys | None = None, keep_alive: int = 5) -> Iterator[str]:
    """Serve an application behind the edge, with GET routes and POST /v1/chat/completions, and yield its URL."""
    app = behind_the_edge(
        Starlette(
            routes=[
                *(Route(path, _read) for path in ("/health", "/v1/models", "/metrics", "/workers", "/flush_cache")),
                Route("/v1/chat/completions", _echo, methods=["POST"]),
            ]
        ),
        keys=keys or Keys(),
        allowed_origins=frozenset(),
        host="127.0.0.1",
        max_body_bytes=1000,
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http=PROTOCOL, lifespan="off", log_level="warning", timeout_keep_alive=keep_alive)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


async def _read(_request: Request) -> Response:
    return PlainTextResponse("read")


async def _echo(request: Request) -> Response:
    return Response(await request.body())
