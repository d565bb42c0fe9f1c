"""A process that has computed and then forks leaves its child able to compute."""

import subprocess
import sys

import pytest

FORKING_PROGRAM = """
import os, signal, torch
from contextlib import nullcontext
from sglang_speechlm.platform.threads import without_threads
torch.set_num_threads(2)
with {context}():
    torch.ones(10_000_000) + 1
assert torch.get_num_threads() == 2
if (child := os.fork()) == 0:
    signal.alarm(10)
    torch.ones(10_000_000) + 1
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize(("context", "status"), [("without_threads", 0), ("nullcontext", -14)])
def test_a_child_can_compute_if_its_parent_used_no_threads(context: str, status: int) -> None:
    """If its parent's computation used threads, the child hangs, and the alarm ends it."""
    script = FORKING_PROGRAM.format(context=context)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(result.stdout) == status
