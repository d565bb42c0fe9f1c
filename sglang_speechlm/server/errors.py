"""Errors as OpenAI's clients read them."""

from __future__ import annotations

from typing import Any

from fastapi.responses import ORJSONResponse
from pydantic import ValidationError

_TYPES = {401: "authentication_error", 404: "not_found_error"}


class ApiError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: HTTP status.
        field: the request field at fault, as a path into the body.
        retry_after: seconds after which to try again.
    """

    def __init__(self, status: int, message: str, field: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.field = field
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.field, "code": self.status}}

    def response(self) -> ORJSONResponse:
        """The whole HTTP answer."""
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after is not None else None
        return ORJSONResponse(self.body(), status_code=self.status, headers=headers)


def bad_field(field: str, message: str) -> ApiError:
    """A 400 that names its field."""
    return ApiError(400, f"{field}: {message}", field)


def from_validation(error: ValidationError) -> ApiError:
    """The first thing that a body's validation found: the field, what is allowed, and what it was."""
    first = error.errors(include_url=False, include_context=False)[0]
    path = ""
    for part in first["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    shown = "" if first["type"] == "missing" else f"; got {_shortened(first['input'])}"
    return bad_field(path or "body", f"{first['msg']}{shown}")


def _shortened(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
