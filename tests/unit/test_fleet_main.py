"""What the front of a fleet is given before it serves."""

import asyncio
import resource
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from sglang_speechlm.fleet import main
from sglang_speechlm.options.fleet import read


async def _wait_for_ever(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


def test_a_request_that_no_worker_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "_SPARE_SECONDS", 0.01)
    app: Any = main._guarded(_wait_for_ever, read(["--worker-urls", "http://a:1", "--request-timeout-secs", "0.01"]))

    async def ask() -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return (await client.post("/v1/chat/completions", json={})).status_code

    assert asyncio.run(ask()) == 504


def test_as_many_files_may_be_open_as_the_system_allows() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    try:
        main._allow_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
