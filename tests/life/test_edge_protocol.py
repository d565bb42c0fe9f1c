"""Connections without a request are closed, and invalid HTTP is refused with a regular error response."""

import json
import socket
import time
from collections.abc import Iterator

import pytest
from server import SECONDS
from server.edge import served_edge

from sglang_speechlm.server.edge import protocol

HEAD_SECONDS = 0.25
HEAD = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """Serve an application that waits a quarter of a second for a request, and return its address."""
    monkeypatch.setattr(protocol, "HEAD_SECONDS", HEAD_SECONDS)
    with served_edge(keep_alive=SECONDS) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        yield host, int(port)


def connected(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=SECONDS)


def read_to_end(connection: socket.socket) -> bytes:
    """Return everything received until the server closes the connection."""
    return connection.makefile("rb").read()


def request_and_read(connection: socket.socket) -> None:
    """Send a request and read its answer."""
    connection.sendall(HEAD + b"\r\n")
    received = b""
    while not received.endswith(b"read"):
        received += connection.recv(4096)


def trickle(connection: socket.socket) -> None:
    """Send a byte now and then without end."""
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


def test_a_connection_without_a_request_is_closed(address: tuple[str, int]) -> None:
    with connected(address) as connection:
        assert read_to_end(connection) == b""


@pytest.mark.parametrize("part", [b"G", HEAD, HEAD + b"X-Long: "])
def test_an_incomplete_request_is_refused(part: bytes, address: tuple[str, int]) -> None:
    with connected(address) as connection:
        connection.sendall(part)
        head, _, body = read_to_end(connection).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert json.loads(body)["error"]["type"] == "invalid_request_error"


def test_an_incomplete_request_after_an_answer_is_refused(address: tuple[str, int]) -> None:
    with connected(address) as connection:
        request_and_read(connection)
        connection.sendall(HEAD)
        assert read_to_end(connection).startswith(b"HTTP/1.1 408 ")


def test_an_incomplete_request_after_a_pipelined_one_is_refused(address: tuple[str, int]) -> None:
    with connected(address) as connection:
        connection.sendall(HEAD + b"\r\n" + HEAD)
        assert b"HTTP/1.1 408 " in read_to_end(connection)


def test_a_request_that_trickles_in_is_refused(address: tuple[str, int]) -> None:
    with connected(address) as connection, pytest.raises(ConnectionError):
        trickle(connection)


def test_a_refused_body_is_not_read_without_end(address: tuple[str, int]) -> None:
    with connected(address) as connection:
        connection.sendall(b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 404 ")
        with pytest.raises(ConnectionError):
            trickle(connection)


def test_an_idle_connection_between_requests_is_kept(address: tuple[str, int]) -> None:
    with connected(address) as connection:
        request_and_read(connection)
        time.sleep(2 * HEAD_SECONDS)
        request_and_read(connection)


def test_the_oldest_of_too_many_waiting_connections_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MOST_WAITING", 3)
    with served_edge() as url:
        host, _, port = url.removeprefix("http://").partition(":")
        waiting = [connected((host, int(port))) for _ in range(4)]
        assert read_to_end(waiting[0]) == b""
        waiting[3].sendall(HEAD + b"Connection: close\r\n\r\n")
        assert read_to_end(waiting[3]).endswith(b"read")
        for connection in waiting:
            connection.close()


@pytest.mark.parametrize(
    "line", [b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", b"\x16\x03\x01\r\n\r\n", b"GET /\x01 HTTP/1.1\r\n\r\n"]
)
def test_invalid_http_is_refused_with_an_error_object(line: bytes, address: tuple[str, int]) -> None:
    with connected(address) as connection:
        connection.sendall(line)
        head, _, body = read_to_end(connection).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert b"x-content-type-options: nosniff" in head.lower()
        assert json.loads(body)["error"]["message"] == "the request is not valid HTTP"


@pytest.mark.parametrize(
    "lengths",
    [b"Content-Length: 4\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked\r\nContent-Length: 400"],
)
def test_a_request_with_two_lengths_is_refused_and_the_rest_ignored(lengths: bytes, address: tuple[str, int]) -> None:
    with connected(address) as connection:
        request = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + lengths + b"\r\n\r\n0\r\n\r\n"
        connection.sendall(request + HEAD + b"\r\n")
        answers = read_to_end(connection)
        assert answers.startswith(b"HTTP/1.1 400 ")
        assert answers.count(b"HTTP/1.1 ") == 1


def test_nothing_after_an_invalid_target_is_answered(address: tuple[str, int]) -> None:
    with connected(address) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert read_to_end(connection).count(b"HTTP/1.1 ") == 1


CHUNKED = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"


def test_a_body_of_many_small_chunks_is_refused(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "FREE_CHUNKS", 100)
    with connected(address) as connection:
        connection.sendall(CHUNKED + b"1\r\na\r\n" * 500)
        assert b"101 chunks that are too small" in read_to_end(connection)


def test_a_body_of_some_small_chunks_is_read(address: tuple[str, int]) -> None:
    with connected(address) as connection:
        connection.sendall(CHUNKED + b"1\r\na\r\n" * 900 + b"0\r\n\r\n")
        assert read_to_end(connection).endswith(b"a" * 900)


def test_a_body_of_many_large_chunks_is_read(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "FREE_CHUNKS", 2)
    with connected(address) as connection:
        connection.sendall(CHUNKED + (b"100\r\n" + b"a" * 256 + b"\r\n") * 3 + b"0\r\n\r\n")
        assert read_to_end(connection).endswith(b"a" * 768)


def test_an_upgrade_is_answered_like_a_plain_request(address: tuple[str, int]) -> None:
    with connected(address) as connection:
        connection.sendall(HEAD + b"Connection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n")
        assert read_to_end(connection).endswith(b"read")
