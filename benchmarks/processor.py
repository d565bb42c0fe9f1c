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
    return sum(_seconds(process) for process in (root, *root.children(recursive=True)))


PARTS = {"scheduler": "sglang::scheduler", "detokenizer": "sglang::detokenizer", "codec": "sglang_speechlm.codec"}
"""How the titles of a server's processes begin, by what they do."""


def seconds_by_part(server: ServerProcess) -> dict[str, float]:
    """Return the processor time so far of each of ``PARTS``, of the process ``http``, and of its event loop alone."""
    http = psutil.Process(server.process.pid).children()[0]
    loop = next(thread for thread in http.threads() if thread.id == http.pid)
    found = {"http": _seconds(http), "loop": loop.user_time + loop.system_time}
    for process in http.children():
        title = process.cmdline()[0]
        found |= {part: _seconds(process) for part, begin in PARTS.items() if title.startswith(begin)}
    return found


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
