"""Garbage collection is off while a process imports, and on once it serves."""

import gc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_speechlm.process.gc import collect_garbage, collect_no_garbage
from sglang_speechlm.process.heartbeat import Heartbeat
from sglang_speechlm.server.lifetime import parts


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    collect_garbage()


def test_imported_objects_are_frozen_and_the_rest_is_collected() -> None:
    collect_no_garbage()
    assert not gc.isenabled()
    collect_garbage()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


@pytest.fixture
def collecting(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether garbage collection is on in SGLang's processes, whose own work is replaced."""
    is_collecting: list[bool] = []

    def scheduler(server_args: Any, tp_rank: int, dp_rank: int | None) -> None:
        is_collecting.append(gc.isenabled())

    monkeypatch.setattr(parts, "ignore_failing_writes", lambda: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # otherwise a rank would set the number of threads of this process
    monkeypatch.setattr(parts, "run_scheduler_process", scheduler)
    monkeypatch.setattr(parts, "run_detokenizer_process", lambda: is_collecting.append(gc.isenabled()))
    collect_no_garbage()
    return is_collecting


def test_a_scheduler_collects_garbage(collecting: list[bool]) -> None:
    parts.run_scheduler({(0, 0): Heartbeat()}, SimpleNamespace(tp_size=1), 0, None)
    assert collecting == [True]


def test_the_detokenizer_collects_garbage(collecting: list[bool]) -> None:
    parts.run_detokenizer(Heartbeat())
    assert collecting == [True]
