"""A cancelled stage ends even if SGLang swallows the cancellation."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

from sglang_speechlm.program.engine import Engine
from sglang_speechlm.prompt.layout import Prompt


class UncancellableManager:
    """Gives outputs forever and swallows a cancellation, as asyncio.wait_for may before Python 3.12."""

    server_args = SimpleNamespace(max_running_requests=4)
    max_req_input_len = 100

    def __init__(self) -> None:
        self.is_closed = False

    def abort_request(self, rid: str = "", abort_all: bool = False) -> None: ...

    async def generate_request(self, _request: Any) -> AsyncGenerator[dict[str, Any]]:
        has_swallowed = False
        try:
            for length in range(1, 10**9):
                try:
                    await asyncio.sleep(0)
                except asyncio.CancelledError:
                    if has_swallowed:
                        raise
                    has_swallowed = True
                yield {"output_ids": [7] * min(length, 3), "meta_info": {"cached_tokens": 0}}
        finally:
            self.is_closed = True


def test_a_cancellation_that_sglang_swallows_ends_the_stage() -> None:
    manager: Any = UncancellableManager()

    async def read() -> None:
        async with aclosing(Engine(manager, 1000, 8).run("stage", Prompt([1], []), {})) as outputs:
            async for _ in outputs:
                pass

    async def cancel() -> None:
        reading = asyncio.create_task(read())
        await asyncio.sleep(0.01)
        reading.cancel()
        await asyncio.wait([reading], timeout=30)
        assert reading.cancelled()

    asyncio.run(cancel())
    assert manager.is_closed
