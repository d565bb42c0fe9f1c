"""An answer with several choices, one of which is refused."""

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_speechlm.program.engine import StageRefused
from sglang_speechlm.server.edge.warnings import Warnings
from sglang_speechlm.server.routes.chat_answer import Arrival, ChatAnswer
from sglang_speechlm.server.routes.route import refusal


@pytest.mark.parametrize("begun", [False, True])
def test_advice_to_retry_is_given_only_if_no_choice_has_begun(begun: bool) -> None:
    async def refused() -> AsyncGenerator[Arrival]:
        raise StageRefused(503, "the queue is full")
        yield

    replies: Any = [
        SimpleNamespace(has_begun=has_begun, request=SimpleNamespace(id="a-0")) for has_begun in (begun, False)
    ]
    body: Any = SimpleNamespace(model="m", stream_options=None)
    unused: Any = None
    answer = ChatAnswer(unused, body, unused, replies, Warnings())
    with pytest.raises(StageRefused) as error:
        asyncio.run(answer.whole(refused()))
    assert ("Retry-After" in refusal(error.value).headers) is not begun
