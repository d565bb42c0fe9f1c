"""The log line of a request."""

import asyncio
import logging

import pytest
from starlette.responses import Response
from starlette.types import Message

from sglang_speechlm.logs import RequestLog


@pytest.mark.parametrize("part", ["method", "raw_path", "x-request-id"])
def test_a_client_cannot_write_long_log_lines(part: str, caplog: pytest.LogCaptureFixture) -> None:
    long = "A" * 50_000
    scope = {
        "type": "http",
        "method": long if part == "method" else "GET",
        "path": "/",
        "raw_path": long.encode() if part == "raw_path" else b"/",
        "headers": [(b"x-request-id", long.encode())] if part == "x-request-id" else [],
    }

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        pass

    with caplog.at_level(logging.INFO, logger="sglang_speechlm.requests"):
        asyncio.run(RequestLog(Response())(scope, receive, send))
    (record,) = caplog.records
    assert len(record.getMessage()) < 1000
