"""The web page to try the server: static files, none from elsewhere."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

_STATIC = Path(__file__).parent / "static"


def page_routes() -> list[Route]:
    """Return one route per file, and ``/`` for index.html; a catch-all would replace other routes' 404 and 405."""
    return [_route(file) for file in sorted(_STATIC.iterdir())]


def _route(file: Path) -> Route:
    async def serve(_request: Request) -> FileResponse:
        return FileResponse(file, headers={"Cache-Control": "no-cache"})

    return Route("/" if file.name == "index.html" else f"/{file.name}", serve, methods=["GET"])
