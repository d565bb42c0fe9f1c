"""A process that computes and is forked leaves its child able to compute."""

import subprocess
import sys

import pytest

FORKS = """
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
def test_a_child_can_compute(context: str, status: int) -> None:
    """It hangs, and is ended by the alarm, if its parent's computation had threads."""
    script = FORKS.format(context=context)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(ran.stdout) == status
