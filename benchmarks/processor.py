"""Processor time: on one core, what a server takes on a quiet machine, whatever else this one does meanwhile."""

from __future__ import annotations

import os

import psutil

from sglang_speechlm.process import Worker

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Environment of a server that is measured on one core."""


def one_core() -> set[int]:
    """The last of the cores that this process may run on: the first one is busiest with everything else."""
    return {max(os.sched_getaffinity(0))}


def seconds(worker: Worker) -> float:
    """Processor time of all the server's processes so far."""
    server = psutil.Process(worker.process.pid)
    times = [process.cpu_times() for process in (server, *server.children(recursive=True))]
    return sum(each.user + each.system for each in times)
