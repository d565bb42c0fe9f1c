"""HTTP on one connection: uvicorn's protocol, with a timeout for requests."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from h11._connection import DEFAULT_MAX_INCOMPLETE_EVENT_SIZE
from uvicorn.protocols.http.h11_impl import H11Protocol

from sglang_speechlm.server.edge.browser import SECURITY_HEADERS
from sglang_speechlm.server.edge.errors import ApiError

PROTOCOL = f"{__name__}:Protocol"

HEAD_SECONDS = 10.0
"""Timeout from the start of a connection, or the first byte after a response, to the end of a request's headers."""
MOST_WAITING = 1000
"""Maximum connections without a request; beyond that, the one that has waited longest is closed."""

FREE_CHUNKS = 1000
LEAST_CHUNK_BYTES = 256
"""Average size of a body's chunks beyond the first ones: each chunk takes as much time as some kilobytes."""

_waiting: dict[Protocol, asyncio.TimerHandle] = {}


class _Connection(h11.Connection):
    """Refuses a body of too many small chunks, which would block the event loop for seconds at a time.

    Attributes:
        complaint: the error of a request that is refused for its chunks.
    """

    complaint: ApiError | None = None
    _chunks = _chunk_bytes = 0

    def next_event(self) -> Any:
        """Return the next event.

        Raises:
            RemoteProtocolError: for invalid HTTP, or chunks that are too small.
        """
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._chunk_bytes = 0
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_end
            self._chunk_bytes += len(event.data)
            if self._chunks > FREE_CHUNKS and self._chunk_bytes < LEAST_CHUNK_BYTES * self._chunks:
                allowed = f"after {FREE_CHUNKS} chunks they must have {LEAST_CHUNK_BYTES} bytes on average"
                self.complaint = ApiError(400, f"the body comes in {self._chunks} chunks that are too small; {allowed}")
                raise h11.RemoteProtocolError(str(self.complaint))
        return event


class Protocol(H11Protocol):
    """Closes a connection whose request is not complete in time.

    uvicorn closes connections that send nothing after a response (``timeout_keep_alive``), and waits forever for the
    others. A request to upgrade is answered without the upgrade: there are no WebSockets.
    """

    def connection_made(self, transport: Any) -> None:
        """Start waiting for the first request."""
        super().connection_made(transport)
        self.conn: h11.Connection = _Connection(h11.SERVER, DEFAULT_MAX_INCOMPLETE_EVENT_SIZE)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read data; keep waiting until a request's headers are complete."""
        super().data_received(data)
        if self.transport.is_closing() or (self.cycle is not None and not self.cycle.response_complete):
            self._stop_waiting()
        else:
            self._wait()

    def on_response_complete(self) -> None:
        """Continue with buffered data; keep waiting if it is an incomplete request."""
        super().on_response_complete()
        if self.cycle.response_complete and self.conn.trailing_data[0] and not self.transport.is_closing():
            self._wait()

    def send_400_response(self, msg: str) -> None:
        """Refuse invalid HTTP, in the form of all other errors."""
        complaint = self.conn.complaint if isinstance(self.conn, _Connection) else None
        self._refuse(complaint or ApiError(400, "the request is not valid HTTP"))

    def _should_upgrade(self) -> bool:
        return False

    def _wait(self) -> None:
        if self in _waiting:
            return
        _waiting[self] = self.loop.call_later(HEAD_SECONDS, self._end_waiting)
        if len(_waiting) > MOST_WAITING:
            next(iter(_waiting))._end_waiting()

    def _stop_waiting(self) -> None:
        if timer := _waiting.pop(self, None):
            timer.cancel()

    def _end_waiting(self) -> None:
        self._stop_waiting()
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            self._refuse(ApiError(408, f"the request's headers were not complete within {HEAD_SECONDS:g} s"))
        else:
            self.transport.close()

    def _refuse(self, error: ApiError) -> None:
        answer = error.response()
        headers = [*answer.raw_headers, *((name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items())]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for event in (
                h11.Response(status_code=error.status, headers=[*headers, (b"connection", b"close")]),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
