"""Errors as OpenAI's clients read them."""

from __future__ import annotations

import reprlib
from collections.abc import Collection
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.responses import Response

from sglang_speechlm.server.edge.wording import kind_of, rule_of

UNKNOWN = "unknown_field"
"""Type of the error of an object that has a field too many, by the name ``field``."""

_repr = reprlib.Repr()
_repr.maxlevel, _repr.maxstring, _repr.maxother = 3, 80, 80

_LONGEST = 800
"""Characters of a message; whatever a client sent may stand in it."""

_CODES = {401: "invalid_api_key", 413: "request_too_large", 503: "overloaded"}


class ApiError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: HTTP status.
        field: the request field at fault, as a path into the body.
        code: OpenAI's name of the error, where it has one.
        headers: of the answer.
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
        """Take what the attributes say, and for three headers: seconds after which to try again, the allowed methods,
        and whether the connection is closed, since the rest of the request is not read.
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
        """OpenAI's error object."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.field, "code": self.code}}

    def response(self) -> Response:
        """The whole HTTP answer."""
        return Response(
            orjson.dumps(self.body()), status_code=self.status, headers=self.headers, media_type="application/json"
        )


def method_not_allowed(method: str, path: str, methods: Collection[str]) -> ApiError:
    """A 405 that names the methods of a route; whatever answers GET answers HEAD."""
    allow = ", ".join(sorted({*methods, *(("HEAD",) if "GET" in methods else ())}))
    return ApiError(405, f"{method} {path}: only {allow} is served here", allow=allow)


def bad_field(field: str, message: str) -> ApiError:
    """A 400 that names its field."""
    return ApiError(400, f"{field}: {message}", field)


def shown(value: Any) -> str:
    """What a client sent, bounded in depth and breadth."""
    return _repr.repr(value)


def from_validation(error: ValidationError, body: Any) -> ApiError:
    """What a body's validation found first: the field, what is allowed, and what it was.

    Of several things that a field may be, the one that the body came closest to is told: the one in which the error is
    deepest, or else one of whose type the value is.
    """
    errors = error.errors(include_url=False)
    # An object's unknown field is an error of the object.
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
        # Of none of the types that it may be.
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
    """Where in the body an error is: pydantic's location names the alternatives that it tried as well."""
    place: list[int | str] = []
    inside = True
    for part in location:
        inside = isinstance(body, dict) and part in body
        inside = inside or (isinstance(body, list) and isinstance(part, int) and part < len(body))
        if inside:
            body = body[part]
            place.append(part)
    return [*place, location[-1]] if missing and not inside else place
