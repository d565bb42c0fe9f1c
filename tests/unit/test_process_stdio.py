"""Standard streams that the parent process has closed."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, subprocess, sys, tempfile
from sglang_speechlm.process.stdio import ignore_failing_writes, open_closed_streams
open_closed_streams()
ignore_failing_writes()
numbers = {os.open("/", os.O_RDONLY) for _ in range(3)}
print("printed", flush=True)
print("written", file=sys.stderr)
subprocess.run([sys.executable, "-c", "import sys; print(sys.stdin, sys.stdout, sys.stderr)"], check=True)
with open(sys.argv[1], "w") as result:
    result.write(str((min(numbers) > 2, sys.stdin.read(), sys.stdout.isatty(), sys.stderr.isatty())))
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "<&- 2>&-"])
def test_closed_streams_read_and_write_nothing(closed: str, tmp_path: Path) -> None:
    result = tmp_path / "result"
    command = ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-c", PROGRAM, str(result)]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert result.read_text() == str((True, "", False, False))
    assert ended.stdout.startswith("printed\n<_io.") == (">&-" not in closed.split())
    assert (ended.stderr == "written\n") == ("2>&-" not in closed.split())
    assert "None" not in ended.stdout
