"""Changes that the hooks around SGLang's queue make for one request."""

from types import SimpleNamespace
from typing import Any

import pytest

from sglang_speechlm.sglang_hooks.pairs import queue_request


def test_a_limit_that_is_lifted_for_a_request_is_restored_if_queueing_fails() -> None:
    scheduler: Any = SimpleNamespace(max_queued_requests=2)
    retracted: Any = SimpleNamespace()

    def queue(*_: Any) -> None:
        assert scheduler.max_queued_requests is None
        raise OSError("the client's socket is gone")

    with pytest.raises(OSError, match="socket"):
        queue_request(queue, scheduler, retracted, is_retracted=True)
    assert scheduler.max_queued_requests == 2
