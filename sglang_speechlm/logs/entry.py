"""What is kept of a request while it is served, for its line in the log."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Entry:
    """One request.

    Attributes:
        request_id: the client's or ours.
        trace: its headers traceparent and tracestate, if it sent them.
        replies: kind, counts and end of each reply that was given, none of them a payload.
    """

    request_id: str
    trace: dict[str, str] = field(default_factory=dict)
    replies: list[dict[str, Any]] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        """The replies together: counts added up, ends named once each."""
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
    """The request that this task serves; None outside of one."""
    return _CURRENT.get()


def current_id() -> str | None:
    """The id of the request that this task serves."""
    entry = current()
    return entry.request_id if entry is not None else None


def begin(entry: Entry) -> None:
    """This task, and what it starts, serves ``entry`` from now on."""
    _CURRENT.set(entry)
