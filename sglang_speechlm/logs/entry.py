"""The data of a running request for its log line."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Entry:
    """One request.

    Attributes:
        request_id: the client's or the server's.
        trace: its headers traceparent and tracestate, if it sent them.
        replies: kind, counts and end of each reply, without its content.
    """

    request_id: str
    trace: dict[str, str] = field(default_factory=dict)
    replies: list[dict[str, Any]] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        """Return the fields of the log line: the replies' counts added up, each kind of end once."""
        if not self.replies:
            return {}
        first = self.replies[0]
        summed = {
            name: sum(reply[name] for reply in self.replies) for name in ("cached_tokens", "text_tokens", "frames")
        }
        return {
            **first,
            **summed,
            "replies": len(self.replies),
            "finish_reason": ",".join(sorted({reply["finish_reason"] for reply in self.replies})),
        }


_CURRENT: ContextVar[Entry | None] = ContextVar("request", default=None)


def current() -> Entry | None:
    """Return the request that this task serves; None outside a request."""
    return _CURRENT.get()


def current_id() -> str | None:
    """Return the id of the request that this task serves."""
    entry = current()
    return entry.request_id if entry is not None else None


def begin(entry: Entry) -> None:
    """Make ``entry`` the request of this task and of the tasks that it starts."""
    _CURRENT.set(entry)
