"""Server-sent events, in the form of OpenAI's streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.datastructures import Headers

MEDIA_TYPE = "text/event-stream"

DONE = b"data: [DONE]\n\n"
"""The last event of a stream of chat or of /generate."""


def event(data: Mapping[str, Any]) -> bytes:
    """Return an event."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


def is_stream(headers: Headers) -> bool:
    """Whether these are the headers of a stream of events."""
    return headers.get("content-type", "").startswith(MEDIA_TYPE)
