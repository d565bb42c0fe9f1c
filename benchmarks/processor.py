"""Processor time: the time that a server would take on one core of a quiet machine."""

from __future__ import annotations

import os

import psutil

from sglang_speechlm.process import ServerProcess

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Environment for measuring a server on one core."""


def one_core() -> set[int]:
    """Return the last core that this process may use, because the first one is busiest with other work."""
    return {max(os.sched_getaffinity(0))}


def seconds(server: ServerProcess) -> float:
    """Return the processor time of all the server's processes so far."""
    root = psutil.Process(server.process.pid)
    times = [process.cpu_times() for process in (root, *root.children(recursive=True))]
    return sum(time.user + time.system for time in times)
