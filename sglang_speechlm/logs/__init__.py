"""Lines of the log: which request each belongs to, one for every request, as text or as JSON. Never what was said."""

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
