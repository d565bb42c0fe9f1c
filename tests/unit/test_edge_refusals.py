"""The application's own refusals."""

import asyncio

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from sglang_speechlm.server.edge.refusals import use_openai_errors


def refusal_of(method: str, path: str) -> dict[str, str | None]:
    """Return the error object of a request to an application with a few routes."""

    async def answer(_request: Request) -> Response:
        return Response()

    app = FastAPI(openapi_url=None)
    for route in ("/v1/chat/completions", "/v1/audio/speech", "/v1/models", "/v1/models/{model:path}", "/health"):
        app.add_route(route, answer, methods=["GET" if "models" in route else "POST"])
    use_openai_errors(app)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.request(method, path)

    response = asyncio.run(ask())
    assert response.status_code == 404
    error: dict[str, str | None] = response.json()["error"]
    return error


@pytest.mark.parametrize("path", ["/v1/responses", "/chat/completions", "/v1/v1/chat/completions", "/v1/embeddings"])
def test_the_error_of_an_unknown_route_lists_the_routes(path: str) -> None:
    error = refusal_of("POST", path)
    assert error["message"] == (
        f"POST {path}: no such route; OpenAI's clients can use /v1/audio/speech, /v1/chat/completions, /v1/models"
    )
    assert error["type"] == "invalid_request_error"
