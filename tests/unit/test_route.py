"""Errors of routes."""

import asyncio
import errno
import json
import logging
import time
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from sglang_speechlm.server.routes.route import route
from sglang_speechlm.server.service import Service


def answer_after(error: Exception) -> Response:
    async def handler(http: Request, service: Service, deadline: float) -> Response:
        raise error

    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": []}
    app = SimpleNamespace(state=SimpleNamespace(speechlm=None))
    http = Request({**scope, "app": app, "speechlm.deadline": time.monotonic() + 60, "state": {}})

    async def answer() -> Response:
        return await route(handler)(http)

    return asyncio.run(answer())


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOSPC])
def test_a_missing_resource_is_a_503(number: int, caplog: pytest.LogCaptureFixture) -> None:
    response = answer_after(OSError(number, "no more of it"))
    assert response.status_code == 503
    assert json.loads(bytes(response.body))["error"]["message"].startswith("a system resource is exhausted: ")
    assert "retry-after" not in response.headers  # the answer may have been generated already
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is None


@pytest.mark.parametrize("error", [OSError(errno.EIO, "read error"), RuntimeError("a fault")])
def test_any_other_exception_is_logged_with_its_traceback(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    assert answer_after(error).status_code == 500
    (record,) = caplog.records
    assert record.exc_info is not None
