"""Ctrl-C ends every program with a line, also while it imports what it needs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent
while not (ROOT / "pyproject.toml").exists():
    ROOT = ROOT.parent

INTERRUPTS_ITSELF = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["WHEN"]:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
"""
"""Has the process interrupted when it first imports what the variable names."""

PROGRAMS = [
    (["-m", "sglang_speechlm.launch"], "psutil"),
    (["-m", "sglang_speechlm.launch", "--dp", "2"], "uvicorn"),
    (["-m", "sglang_speechlm.convert"], "torch"),
    (["-m", "sglang_speechlm.checkpoint"], "torch"),
    (["-m", "sglang_speechlm.recipe"], "torch"),
    (["-m", "sglang_speechlm.demo"], "openai"),
    (["-c", "from sglang_speechlm.cli import main; main()", "demo"], "openai"),
    (["-c", "from sglang_speechlm.cli import main; main()", "client"], "httpx"),
    *(([f"clients/{path.name}"], "orjson") for path in sorted((ROOT / "clients").glob("*.py"))),
]


@pytest.mark.parametrize(("program", "when"), PROGRAMS, ids=[" ".join(program) for program, _ in PROGRAMS])
def test_a_program_that_is_interrupted_ends_with_a_line(program: list[str], when: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTS_ITSELF)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}", "WHEN": when}
    ended = subprocess.run(
        [sys.executable, *program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=_hear_interrupts,
    )
    assert (ended.returncode, ended.stderr) == (130, "interrupted\n")


def _hear_interrupts() -> None:
    """Undo what a shell does to its background jobs, of which the tests may be one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_another_error_is_shown_as_usual() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "from sglang_speechlm.interrupt import *; end_without_traceback(); 1 / 0"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr
