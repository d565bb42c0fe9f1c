"""SGLang's processes, as ours: what they print may get lost."""

from __future__ import annotations

import os
from typing import Any

import torch
from sglang.srt.managers.detokenizer_manager import run_detokenizer_process
from sglang.srt.managers.scheduler import run_scheduler_process

from sglang_speechlm.process.gc import collect_garbage
from sglang_speechlm.process.stdio import forgive_failing_writes


def run_scheduler(server_args: Any, *arguments: Any, **named: Any) -> None:
    """One rank."""
    collect_garbage()
    forgive_failing_writes()
    if not torch.cuda.is_available():
        _leave_a_core(server_args.tp_size)
    run_scheduler_process(server_args, *arguments, **named)


def run_detokenizer(*arguments: Any, **named: Any) -> None:
    """The detokenizer."""
    collect_garbage()
    forgive_failing_writes()
    run_detokenizer_process(*arguments, **named)


def _leave_a_core(ranks: int) -> None:
    """Compute on all cores but one, if nobody said otherwise.

    The threads of a step wait for the slowest of them, which is the one whose core the codec or HTTP has just taken:
    on two cores, two threads give eight listeners half of the sound that one thread gives.
    """
    if not {"OMP_NUM_THREADS", "SGLANG_CPU_OMP_THREADS_BIND"} & os.environ.keys():
        torch.set_num_threads(max(1, (len(os.sched_getaffinity(0)) - 1) // ranks))
