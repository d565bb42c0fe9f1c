"""Errors in the form of OpenAI's clients, and the map of this package's exceptions.

In a server, for a request:

- ``ApiError`` (here): the edge, ``reading`` or a route refuses a request; its status, with OpenAI's error object.
- ``AudioError`` (``audio/errors.py``): a clip cannot be used; an ``ApiError`` 400 with the clip's field. ``NotPublic``
  (``audio/fetch.py``), for a host with a private address, and ``AvError`` (``audio/av_sound.py``), for a file that
  FFmpeg's libraries cannot decode, become one.
- ``StageRefused`` (``program/engine.py``): SGLang refuses or aborts a stage; its status, usually 400 or 503.
- ``CodecError`` (``codec/stream.py``): no sound can be made; 503. While a server starts, exit status 3.
- ``ClientGone`` (``server/edge/connection.py``): the client disconnected; status 499 in the log.
- ``NotReached``, ``RouterRefused`` (``fleet/forward.py``): a front tries the next worker; 503 if there is none.
- any other exception: 500, with a traceback in the log.

In a program, before or after it serves:

- ``CheckpointError`` (``config/files.py``): a file of a checkpoint cannot be used; a message and exit status 2.
  ``OtherConversion`` (``checkpoint/convert/plan.py``): the directory belongs to another conversion; redone in the
  cache, else a message.
- ``FleetFailed`` (``fleet/supervisor.py``): a process of a fleet failed on its first start; its exit status.
- ``ServerFailed`` (``process/child.py``): a server that a program started has ended; the end of its log.
- ``SynthesisError`` (``demo/recipe/synthesis.py``): flite is missing or fails; ends the recipe.
- ``SpeechLMError`` (``frontend/errors.py``): a script's request failed; raised in the script.
- ``ValueError``: an argument is invalid; options become a message and exit status 2.

The clients in ``clients/`` have their own: ``Failure`` for a line and ``Refused`` for the run
(``clients/core/failure.py``).
"""

from __future__ import annotations

import reprlib
from collections.abc import Collection
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.responses import Response

from sglang_speechlm.server.edge.wording import kind_of, rule_of

UNKNOWN = "unknown_field"
"""Type of the error for an object with an unknown field, whose name is ``field``."""


class _Shown(reprlib.Repr):
    """Writes what JSON writes in words as JSON does."""

    def repr_NoneType(self, _value: None, _level: int) -> str:
        return "null"

    def repr_bool(self, value: bool, _level: int) -> str:
        return "true" if value else "false"


_repr = _Shown()
_repr.maxlevel, _repr.maxstring, _repr.maxother = 3, 80, 80

_LONGEST = 800
"""Maximum characters of a message, which may contain anything that a client sent."""

_CODES = {401: "invalid_api_key", 413: "request_too_large", 503: "overloaded"}


class ApiError(Exception):
    """A request gets an error as its response.

    Attributes:
        status: HTTP status.
        field: the request field at fault, as a path into the body.
        code: OpenAI's name of the error, if it has one.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        field: str | None = None,
        *,
        code: str | None = None,
        retry_after: int | None = None,
        allow: str | None = None,
        closes: bool = False,
    ) -> None:
        """Take the attributes, and values for three headers: seconds before a retry, the allowed methods, and whether
        the connection closes because the rest of the request is not read.
        """
        super().__init__(message if len(message) <= _LONGEST else f"{message[: _LONGEST - 3]}...")
        self.status = status
        self.field = field
        self.code = code or _CODES.get(status)
        headers = {
            "Retry-After": None if retry_after is None else str(retry_after),
            "Allow": allow,
            "WWW-Authenticate": "Bearer" if status == 401 else None,
            "Connection": "close" if closes else None,
        }
        self.headers = {name: value for name, value in headers.items() if value is not None}

    def body(self) -> dict[str, Any]:
        """Return OpenAI's error object."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.field, "code": self.code}}

    def response(self) -> Response:
        """Return the complete HTTP response."""
        return Response(
            orjson.dumps(self.body()), status_code=self.status, headers=self.headers, media_type="application/json"
        )


def method_not_allowed(method: str, path: str, methods: Collection[str]) -> ApiError:
    """Return a 405 that names the methods of a route; a route with GET also has HEAD."""
    allow = ", ".join(sorted({*methods, *(("HEAD",) if "GET" in methods else ())}))
    return ApiError(405, f"{method} {path}: only {allow} is served here", allow=allow)


def internal_error() -> ApiError:
    """Return a 500 for a failure that is in the log."""
    return ApiError(500, "internal error; see the server's log")


def bad_field(field: str, message: str) -> ApiError:
    """Return a 400 that names its field."""
    return ApiError(400, f"{field}: {message}", field)


def shown(value: Any) -> str:
    """Return a client's value for a message, bounded in depth and breadth."""
    return _repr.repr(value)


def from_validation(error: ValidationError, body: Any) -> ApiError:
    """Return the first error of a body's validation: the field, what is allowed, and its value.

    If a field may have several forms, the error is about the form that the body came closest to: the one with the
    deepest error, or else one that has the value's type.
    """
    errors = error.errors(include_url=False)
    # An unknown field is reported as an error of its object.
    locations = [
        (*found["loc"], found["ctx"]["field"]) if found["type"] == UNKNOWN else found["loc"] for found in errors
    ]
    places = [
        _place(location, body, found["type"] == "missing") for location, found in zip(locations, errors, strict=True)
    ]
    first = places[0]
    related = [(place, found) for place, found in zip(places, errors, strict=True) if place[: len(first)] == first]
    place, nearest = max(related, key=lambda pair: (len(pair[0]), kind_of(pair[1]) is None))
    message = rule_of(nearest)
    if kind_of(nearest):
        # It has none of the allowed types.
        kinds = [kind for other, found in related if other == place and (kind := kind_of(found))]
        message = f"must be {' or '.join(dict.fromkeys(kinds))}"
    path = ""
    for part in place:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    path = path if len(path) <= 200 else f"{path[:197]}..."
    value = nearest["input"][place[-1]] if nearest["type"] == UNKNOWN else nearest["input"]
    got = "" if nearest["type"] == "missing" else f"; got {shown(value)}"
    return bad_field(path or "body", f"{message}{got}")


def _place(location: tuple[int | str, ...], body: Any, missing: bool) -> list[int | str]:
    """Return the path of an error in the body; pydantic's location also contains the alternatives that it tried."""
    place: list[int | str] = []
    inside = True
    for part in location:
        inside = isinstance(body, dict) and part in body
        inside = inside or (isinstance(body, list) and isinstance(part, int) and part < len(body))
        if inside:
            body = body[part]
            place.append(part)
    return [*place, location[-1]] if missing and not inside else place
