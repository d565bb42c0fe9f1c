"""Garbage is not collected while a process imports, and is once it serves."""

import gc
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_speechlm.process.gc import collect_garbage, collect_no_garbage
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


@pytest.mark.parametrize(
    ("run", "sglangs"),
    [(parts.run_scheduler, "run_scheduler_process"), (parts.run_detokenizer, "run_detokenizer_process")],
)
def test_sglangs_processes_collect_it(
    run: Callable[[Any], None], sglangs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    collects: list[bool] = []
    monkeypatch.setattr(parts, "forgive_failing_writes", lambda: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # or a rank would choose this process's threads
    monkeypatch.setattr(parts, sglangs, lambda _: collects.append(gc.isenabled()))
    collect_no_garbage()
    run(SimpleNamespace(tp_size=1))
    assert collects == [True]
