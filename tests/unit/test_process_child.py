"""How a server that is started as a child process gets its port."""

import asyncio
import socket

import pytest

from sglang_speechlm.process.child import _port_of
from sglang_speechlm.process.port import ReservedPort


@pytest.mark.parametrize(
    ("options", "port"),
    [
        (["--port", "9000"], 9000),
        (["--port=9000"], 9000),
        (["--port", "1", "--overridden-by", "--port=2"], 2),
        (["--served-model-name", "port", "--portal", "3"], None),
        ([], None),
    ],
)
def test_the_port_is_found_in_the_options_in_any_form(options: list[str], port: int | None) -> None:
    assert _port_of(options) == port


def test_only_a_server_that_knows_a_reserved_port_can_use_it() -> None:
    reserved = ReservedPort()
    with socket.socket() as other_socket, pytest.raises(OSError, match="Address already in use"):
        other_socket.bind(("127.0.0.1", reserved.number))

    async def listen() -> None:
        async with await asyncio.start_server(lambda *_: None, "127.0.0.1", reserved.number):
            reserved.close()
            socket.create_connection(("127.0.0.1", reserved.number)).close()

    asyncio.run(listen())
