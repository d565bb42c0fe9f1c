"""GET /v1/audio/voices: the voices that applications offer to their users."""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import Response

from sglang_speechlm.server.service import Service


async def voices(http: Request) -> Response:
    """List the voices, in Open WebUI's form (``voices``) and in that of OpenAI's lists (``data``)."""
    service: Service = http.app.state.speechlm
    listed = [
        {"id": name, "name": name, "object": "voice", "description": description}
        for name, description in service.options.preset.offered_voices.items()
    ]
    return Response(orjson.dumps({"object": "list", "data": listed, "voices": listed}), media_type="application/json")
