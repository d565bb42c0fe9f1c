"""When SGLang decodes between two prefill steps, and when the next one follows at once."""

from types import SimpleNamespace
from typing import Any

from sglang.srt.managers.scheduler import Scheduler

from sglang_speechlm.sglang_hooks.chunks import follow_each_other


def deferred(*, rows: int, chunked: object = None) -> list[bool]:
    """Whether each of the four passes after a prefill of SGLang's scheduler defers the next, if 64 rows are many."""
    scheduler: Any = SimpleNamespace(
        _prefill_decode_interval_remaining=3, prefill_decode_interval_min_bs=64, chunked_req=chunked
    )
    running: Any = SimpleNamespace(batch_size=lambda: rows)
    return [follow_each_other(Scheduler._should_defer_prefill, scheduler, running) for _ in range(4)]


def test_many_rows_decode_between_two_prefills() -> None:
    assert deferred(rows=64) == [True, True, True, False]


def test_few_rows_do_not_delay_a_prefill() -> None:
    assert deferred(rows=63) == deferred(rows=0) == [False] * 4


def test_the_chunks_of_a_prompt_follow_each_other() -> None:
    assert deferred(rows=64, chunked=object()) == [False] * 4
