"""Ctrl-C ends every program with one line, even during its imports."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent
while not (ROOT / "pyproject.toml").exists():
    ROOT = ROOT.parent

INTERRUPT_AT_IMPORT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["WHEN"]:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
"""
"""Interrupts the process when it first imports the module that the variable names."""

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


@pytest.mark.parametrize(("program", "module"), PROGRAMS, ids=[" ".join(program) for program, _ in PROGRAMS])
def test_an_interrupted_program_ends_with_one_line(program: list[str], module: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT_AT_IMPORT)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}", "WHEN": module}
    result = subprocess.run(
        [sys.executable, *program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=_restore_interrupts,
    )
    assert (result.returncode, result.stderr) == (130, "interrupted\n")


def _restore_interrupts() -> None:
    """Restore SIGINT, which a shell ignores in its background jobs; the tests may run as one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_other_errors_are_shown_as_usual() -> None:
    result = subprocess.run(
        [sys.executable, "-c", "from sglang_speechlm.interrupt import *; end_without_traceback(); 1 / 0"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 1
    assert "ZeroDivisionError" in result.stderr
