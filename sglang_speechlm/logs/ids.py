"""Request ids and trace headers."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping

REQUEST_ID_HEADER = "x-request-id"

# Bounded, and without characters that could imitate a line or a field of the log.
_REQUEST_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)
# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_TRACE_HEADERS = ("traceparent", "tracestate")


def request_id(headers: Mapping[str, str]) -> str:
    """Return the client's x-request-id; else the trace id of its traceparent; else a new id.

    A client's id must be 1 to 128 of the characters ``A-Z a-z 0-9 _ . : / + = @ -``, or it is ignored.
    """
    given = headers.get(REQUEST_ID_HEADER, "")
    if _REQUEST_ID.fullmatch(given):
        return given
    parent = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    return parent[1] if parent else uuid.uuid4().hex


def trace_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers by which OpenTelemetry continues a trace; none without a valid traceparent."""
    if not _TRACEPARENT.fullmatch(headers.get("traceparent", "")):
        return {}
    return {name: headers[name] for name in _TRACE_HEADERS if name in headers}
