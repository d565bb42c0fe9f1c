"""How SGLang's processes begin where there is no GPU."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from server import SECONDS, Server, command_of

from sglang_speechlm.process.heartbeat import Heartbeat
from sglang_speechlm.server.lifetime import parts
from sglang_speechlm.sglang_hooks.processes import fork_parts


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    threads, method = torch.get_num_threads(), multiprocessing.get_start_method(allow_none=True)
    yield
    torch.set_num_threads(threads)
    multiprocessing.set_start_method(method, force=True)


@pytest.fixture(autouse=True)
def begun_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank begins in this process, and computes nothing."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("collect_garbage", "forgive_failing_writes"):
        monkeypatch.setattr(parts, name, lambda *_: None)
    monkeypatch.setattr(parts, "run_scheduler_process", lambda server_args, tp_rank, dp_rank: None)


def begin(ranks: int, tp_rank: int = 0, dp_rank: int | None = None) -> dict[parts.Rank, Heartbeat]:
    """Begin a rank; the hearts of all ranks on this machine."""
    server_args = SimpleNamespace(tp_size=ranks, dp_size=2 if dp_rank is not None else 1, nnodes=1, node_rank=0)
    hearts = {rank: Heartbeat() for rank in parts.local_ranks(server_args)}
    parts.run_scheduler(hearts, server_args, tp_rank=tp_rank, dp_rank=dp_rank)
    return hearts


@pytest.mark.parametrize(("tp_rank", "dp_rank"), [(0, None), (1, None), (1, 1)])
def test_each_rank_has_a_heart_of_its_own(tp_rank: int, dp_rank: int | None) -> None:
    hearts = begin(2, tp_rank, dp_rank)
    deadline = time.monotonic() + SECONDS
    while not any(heart.count for heart in hearts.values()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [rank for rank, heart in hearts.items() if heart.count] == [(dp_rank or 0, tp_rank)]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody said how many threads there shall be."""
    for name in ("OMP_NUM_THREADS", "SGLANG_CPU_OMP_THREADS_BIND"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize(("cores", "ranks", "threads"), [(1, 1, 1), (2, 1, 1), (8, 1, 7), (8, 2, 3), (2, 4, 1)])
def test_ranks_compute_on_all_cores_but_one(
    cores: int, ranks: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    torch.set_num_threads(5)
    begin(ranks)
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "SGLANG_CPU_OMP_THREADS_BIND"])
def test_threads_that_somebody_chose_stay(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "5")
    torch.set_num_threads(5)
    begin(1)
    assert torch.get_num_threads() == 5


def test_parts_begin_as_copies() -> None:
    multiprocessing.set_start_method("spawn", force=True)
    fork_parts()
    assert multiprocessing.get_start_method() == "fork"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU's processes are not copies")
@pytest.mark.parametrize("part", ["sglang::scheduler", "sglang::detokenizer", "sglang_speechlm.codec.worker.main"])
def test_a_part_of_a_server_is_a_copy_of_the_http_process(part: str, metered: Server) -> None:
    """Not of ``server``: other tests have its codec restarted, as a process that begins by itself."""
    family = psutil.Process(metered.process.pid).children(recursive=True)
    copy = next(process for process in family if part in command_of(process))
    parent = copy.parent()
    assert parent
    assert _libraries(copy) >= _libraries(parent) != set()


def test_a_server_imports_no_model_and_no_processor_of_sglangs_but_its_own(server: Server) -> None:
    assert "sglang.srt.multimodal.processors." not in server.output()
    assert "sglang.srt.models." not in server.output()  # SGLang names those that cannot be imported here


def _libraries(process: psutil.Process) -> set[str]:
    """Where torch's libraries lie in memory: elsewhere in each process that begins by itself."""
    lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
    return {line for line in lines if "libtorch_cpu" in line and " r-x" in line}
