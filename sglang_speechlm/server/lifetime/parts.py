"""Run SGLang's processes with heartbeats, and with standard streams whose failures are ignored."""

from __future__ import annotations

import os
from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch

from sglang_speechlm.process.gc import collect_garbage
from sglang_speechlm.process.heartbeat import Heartbeat
from sglang_speechlm.process.stdio import ignore_failing_writes
from sglang_speechlm.sglang_hooks.launch import run_detokenizer_process, run_scheduler_process

Rank = tuple[int, int]
"""Data-parallel rank, 0 without data parallelism, and tensor-parallel rank."""


def local_ranks(server_args: Any) -> list[Rank]:
    """Return the ranks that SGLang starts on this machine."""
    per_node = server_args.tp_size // server_args.nnodes
    first = server_args.node_rank * per_node
    return [(dp_rank, tp_rank) for dp_rank in range(server_args.dp_size) for tp_rank in range(first, first + per_node)]


def run_scheduler(heartbeats: Mapping[Rank, Heartbeat], server_args: Any, *arguments: Any, **named: Any) -> None:
    """Run one rank's scheduler, with the heartbeat for the rank in its arguments."""
    bound = signature(run_scheduler_process).bind(server_args, *arguments, **named).arguments
    heartbeats[bound["dp_rank"] or 0, bound["tp_rank"]].beat_by_thread()
    collect_garbage()
    ignore_failing_writes()
    if not torch.cuda.is_available():
        _leave_a_core(server_args.tp_size)
    run_scheduler_process(server_args, *arguments, **named)


def run_detokenizer(heartbeat: Heartbeat, *arguments: Any, **named: Any) -> None:
    """Run the detokenizer."""
    heartbeat.beat_by_thread()
    collect_garbage()
    ignore_failing_writes()
    run_detokenizer_process(*arguments, **named)


def _leave_a_core(ranks: int) -> None:
    """Compute on all cores but one, unless the environment sets the number of threads.

    The threads of a step wait for the slowest one, whose core the codec process or HTTP is using: on two cores, two
    threads produce half as much sound for eight listeners as one thread.
    """
    if not {"OMP_NUM_THREADS", "SGLANG_CPU_OMP_THREADS_BIND"} & os.environ.keys():
        torch.set_num_threads(max(1, (len(os.sched_getaffinity(0)) - 1) // ranks))
