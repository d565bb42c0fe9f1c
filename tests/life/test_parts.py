"""How SGLang's processes start without a GPU."""

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
def restore_torch_and_multiprocessing() -> Iterator[None]:
    threads, method = torch.get_num_threads(), multiprocessing.get_start_method(allow_none=True)
    yield
    torch.set_num_threads(threads)
    multiprocessing.set_start_method(method, force=True)


@pytest.fixture(autouse=True)
def rank_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start ranks in this process, without a scheduler's work."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("collect_garbage", "ignore_failing_writes"):
        monkeypatch.setattr(parts, name, lambda *_: None)
    monkeypatch.setattr(parts, "run_scheduler_process", lambda server_args, tp_rank, dp_rank: None)


def start_rank(ranks: int, tp_rank: int = 0, dp_rank: int | None = None) -> dict[parts.Rank, Heartbeat]:
    """Start a rank and return the heartbeats of all ranks on this machine."""
    server_args = SimpleNamespace(tp_size=ranks, dp_size=2 if dp_rank is not None else 1, nnodes=1, node_rank=0)
    heartbeats = {rank: Heartbeat() for rank in parts.local_ranks(server_args)}
    parts.run_scheduler(heartbeats, server_args, tp_rank=tp_rank, dp_rank=dp_rank)
    return heartbeats


@pytest.mark.parametrize(("tp_rank", "dp_rank"), [(0, None), (1, None), (1, 1)])
def test_each_rank_has_its_own_heartbeat(tp_rank: int, dp_rank: int | None) -> None:
    heartbeats = start_rank(2, tp_rank, dp_rank)
    deadline = time.monotonic() + SECONDS
    while not any(heartbeat.count for heartbeat in heartbeats.values()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [rank for rank, heartbeat in heartbeats.items() if heartbeat.count] == [(dp_rank or 0, tp_rank)]


@pytest.fixture
def no_thread_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset the variables that choose the number of threads."""
    for name in ("OMP_NUM_THREADS", "SGLANG_CPU_OMP_THREADS_BIND"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_thread_variables")
@pytest.mark.parametrize(("cores", "ranks", "threads"), [(1, 1, 1), (2, 1, 1), (8, 1, 7), (8, 2, 3), (2, 4, 1)])
def test_ranks_use_all_cores_but_one(cores: int, ranks: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    torch.set_num_threads(5)
    start_rank(ranks)
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("no_thread_variables")
@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "SGLANG_CPU_OMP_THREADS_BIND"])
def test_a_chosen_number_of_threads_is_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "5")
    torch.set_num_threads(5)
    start_rank(1)
    assert torch.get_num_threads() == 5


@pytest.mark.process
def test_parts_are_forked() -> None:
    multiprocessing.set_start_method("spawn", force=True)
    fork_parts()
    assert multiprocessing.get_start_method() == "fork"


@pytest.mark.skipif(torch.cuda.is_available(), reason="processes are not forked on a GPU")
@pytest.mark.parametrize("part", ["sglang::scheduler", "sglang::detokenizer", "sglang_speechlm.codec.worker.main"])
def test_a_part_of_a_server_is_a_fork_of_the_http_process(part: str, metered: Server) -> None:
    """``metered`` is used because other tests restart the codec process of ``server``, which is then not a fork."""
    processes = psutil.Process(metered.process.pid).children(recursive=True)
    fork = next(process for process in processes if part in command_of(process))
    parent = fork.parent()
    assert parent
    assert _libraries(fork) >= _libraries(parent) != set()


def test_a_server_imports_none_of_sglangs_other_models_and_processors(server: Server) -> None:
    assert "sglang.srt.multimodal.processors." not in server.output()
    assert "sglang.srt.models." not in server.output()  # SGLang logs the models that it fails to import


def _libraries(process: psutil.Process) -> set[str]:
    """Return the memory mappings of torch's libraries, which differ between processes unless one is forked."""
    lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
    return {line for line in lines if "libtorch_cpu" in line and " r-x" in line}
