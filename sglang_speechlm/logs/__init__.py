"""The log: one line per request, and the request id on all other lines, as text or JSON. Never any content."""

from sglang_speechlm.logs.entry import Entry, current, current_id
from sglang_speechlm.logs.ids import REQUEST_ID_HEADER, request_id, trace_headers
from sglang_speechlm.logs.lines import FORMATS, JsonLines, configure
from sglang_speechlm.logs.middleware import RequestLog

__all__ = [
    "FORMATS",
    "REQUEST_ID_HEADER",
    "Entry",
    "JsonLines",
    "RequestLog",
    "configure",
    "current",
    "current_id",
    "request_id",
    "trace_headers",
]
