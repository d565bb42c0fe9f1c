"""Garbage is not collected while a process imports, and is once it serves."""

import gc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_speechlm.process.gc import collect_garbage, collect_no_garbage
from sglang_speechlm.process.heartbeat import Heartbeat
from sglang_speechlm.server.lifetime import parts


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def test_what_is_imported_stays_and_the_rest_is_collected() -> None:
    collect_no_garbage()
    assert not gc.isenabled()
    collect_garbage()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


@pytest.fixture
def collects(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether SGLang's processes collect, in place of what they do."""
    found: list[bool] = []

    def scheduler(server_args: Any, tp_rank: int, dp_rank: int | None) -> None:
        found.append(gc.isenabled())

    monkeypatch.setattr(parts, "forgive_failing_writes", lambda: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # or a rank would choose this process's threads
    monkeypatch.setattr(parts, "run_scheduler_process", scheduler)
    monkeypatch.setattr(parts, "run_detokenizer_process", lambda: found.append(gc.isenabled()))
    collect_no_garbage()
    return found


def test_a_scheduler_collects_it(collects: list[bool]) -> None:
    parts.run_scheduler({(0, 0): Heartbeat()}, SimpleNamespace(tp_size=1), 0, None)
    assert collects == [True]


def test_the_detokenizer_collects_it(collects: list[bool]) -> None:
    parts.run_detokenizer(Heartbeat())
    assert collects == [True]
