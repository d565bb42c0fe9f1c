"""Stalled connections, and listening sockets."""

from __future__ import annotations

import contextlib
import select
import socket
import time

import psutil

from .ledger import Ledger
from .target import CHAT, KEY, Target

_CLOSED_SECONDS = 45.0


def stalled_connections(target: Target, ledger: Ledger, count: int) -> None:
    """Open connections whose request never completes: they are closed in time, and others are answered meanwhile."""
    area = f"{target.name}: stalled connections"
    key = f"Authorization: Bearer {KEY}\r\n" if target.has_keys else ""
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{key}Content-Type: application/json\r\n"
    kinds = {
        "nothing": b"",
        "half a request line": b"POST /v1/ch",
        "half a header": head.encode()[:-4],
        "a header without its end": head.encode(),
        "an answer, then half a header": b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /hea",
    }
    connections: list[tuple[str, socket.socket]] = []
    for number in range(count):
        name = list(kinds)[number % len(kinds)]
        connection = socket.create_connection(target.address, timeout=10)
        connection.sendall(kinds[name])
        connections.append((name, connection))
    ledger.check(area, target.answers(), "no answer during stalled connections")
    deadline = time.monotonic() + _CLOSED_SECONDS
    for name, connection in connections:
        ledger.check(area, _is_closed(connection, deadline), f"{name}: still open after {_CLOSED_SECONDS:g} s")
        connection.close()


def _is_closed(connection: socket.socket, deadline: float) -> bool:
    """Return whether the other side closes a connection before the deadline; its data is read until then."""
    while (left := deadline - time.monotonic()) > 0:
        if select.select([connection], [], [], left)[0]:
            try:
                if not connection.recv(1 << 16):
                    return True
            except OSError:
                return True
    return False


def listening_sockets(target: Target, ledger: Ledger) -> None:
    """Check that every listening socket of the target is on the loopback, as ``--host`` requests."""
    area = f"{target.name}: listening sockets"
    for process in target.processes():
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    address = connection.laddr
                    ledger.check(
                        area, address.ip in ("127.0.0.1", "::1"), f"{process.name()}: {address.ip}:{address.port}"
                    )
