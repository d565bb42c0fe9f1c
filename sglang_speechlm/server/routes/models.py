"""GET /v1/models and GET /v1/models/NAME, in OpenAI's form, and GET /v1/audio/models."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from sglang_speechlm.server.edge.errors import ApiError
from sglang_speechlm.server.service import Service


async def list_models(http: Request) -> Response:
    """List the served checkpoint under each name that the operator gave it."""
    service: Service = http.app.state.speechlm
    cards = [_card(service, name) for name in service.listed_names]
    return _json({"object": "list", "data": cards})


async def list_audio_models(http: Request) -> Response:
    """List the same names, in the form in which Open WebUI expects models of speech."""
    service: Service = http.app.state.speechlm
    return _json({"models": [{"id": name, "name": name} for name in service.listed_names]})


async def retrieve_model(http: Request) -> Response:
    """Return the served checkpoint under any name that requests may use for it."""
    service: Service = http.app.state.speechlm
    name: str = http.path_params["model"]
    try:
        service.check_model(name)
    except ApiError as error:
        return error.response()
    return _json(_card(service, name))


def _card(service: Service, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": service.started,
        "owned_by": "sglang-speechlm",
        "root": service.model_name,
        "parent": None,
        "max_model_len": service.context_length,
    }


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
