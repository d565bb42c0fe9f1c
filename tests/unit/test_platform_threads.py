"""A process that has computed and then forks leaves its child able to compute."""

import json
import subprocess
import sys

FORKING_PROGRAM = """
import json, os, signal, torch
from contextlib import nullcontext
from sglang_speechlm.platform.threads import without_threads

def status_of_child(context, seconds):
    with context():
        torch.ones(10_000_000) + 1
    assert torch.get_num_threads() == 2
    if (child := os.fork()) == 0:
        signal.alarm(seconds)
        torch.ones(10_000_000) + 1
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

torch.set_num_threads(2)
print(json.dumps([status_of_child(without_threads, 60), status_of_child(nullcontext, 1)]))
"""


def test_a_child_can_compute_if_its_parent_used_no_threads() -> None:
    """If its parent's computation used threads, the child hangs, and the alarm ends it."""
    result = subprocess.run([sys.executable, "-c", FORKING_PROGRAM], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == [0, -14]
