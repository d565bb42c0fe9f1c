"""HTTP on one connection: uvicorn's, with an end to waiting for a request."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from sglang_speechlm.server.edge.browser import PROTECTING
from sglang_speechlm.server.edge.errors import ApiError

PROTOCOL = f"{__name__}:Protocol"

HEAD_SECONDS = 10.0
"""From a connection's beginning, or the first byte after an answer, to the end of a request's headers."""
MOST_WAITING = 1000
"""Connections without a request that are kept; beyond it the one that has waited longest is closed."""

_waiting: dict[Protocol, asyncio.TimerHandle] = {}


class Protocol(H11Protocol):
    """Closes a connection on which no request is complete in time.

    uvicorn closes those that send nothing after an answer (``timeout_keep_alive``), and waits for ever for the others.
    A request to upgrade is answered as one without: there are no WebSockets here.
    """

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what has come; wait on if it is not a whole request's headers."""
        super().data_received(data)
        if self.transport.is_closing() or (self.cycle is not None and not self.cycle.response_complete):
            self._stop_waiting()
        else:
            self._wait()

    def on_response_complete(self) -> None:
        """Go on with what has come meanwhile; wait on if that is a part of a request."""
        super().on_response_complete()
        if self.cycle.response_complete and self.conn.trailing_data[0] and not self.transport.is_closing():
            self._wait()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in the shape of all other errors."""
        self._refuse(ApiError(400, "the request is not valid HTTP"))

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
        headers = [*answer.raw_headers, *((name.encode(), value.encode()) for name, value in PROTECTING.items())]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for event in (
                h11.Response(status_code=error.status, headers=[*headers, (b"connection", b"close")]),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
