"""The limits that the front of a fleet sets before it serves."""

import asyncio
import resource
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from sglang_speechlm.fleet import main
from sglang_speechlm.options.fleet import read


async def _wait_forever(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


def test_a_request_that_no_worker_answers_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "_SPARE_SECONDS", 0.01)
    app: Any = main._guarded(_wait_forever, read(["--worker-urls", "http://a:1", "--request-timeout-secs", "0.01"]))

    async def ask() -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return (await client.post("/v1/chat/completions", json={})).status_code

    assert asyncio.run(ask()) == 504


def test_the_limit_on_open_files_is_raised_to_the_hard_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    try:
        main._allow_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
