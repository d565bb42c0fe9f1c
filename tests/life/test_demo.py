"""The demonstration works, prints where its sounds are, and leaves no process running."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import soundfile
from server import SECONDS, wait_for

from sglang_speechlm.demo import GUIDANCE, MODEL


@contextmanager
def demo(model: Path, output: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the demonstration as `make demo` does."""
    command = [sys.executable, "-m", "sglang_speechlm.demo", "--model", str(model), "--output", str(output)]
    # Shells ignore SIGINT in background processes, and their children inherit that.
    heed_interrupts = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=heed_interrupts) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_demonstration_writes_speaks_listens_and_stops(tmp_path: Path) -> None:
    with demo(MODEL, tmp_path) as process:
        printed, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, printed
    for name in ("unguided.wav", "guided.wav", "answer.wav"):
        sound = soundfile.info(tmp_path / name)
        assert sound.samplerate == 16000
        assert sound.duration >= 0.8
        assert f"{name}: {sound.duration:.2f} s" in printed
    assert (tmp_path / "spectrograms.png").read_bytes().startswith(b"\x89PNG")
    for word in (
        "I can write, speak and listen.",
        "The green bird sits near the bridge.",
        "The capital of France is Paris.",
        "writes",
        "speaks, without guidance",
        f"with guidance {GUIDANCE:g}",
        "listens",
        "stopping",
        "done",
        "s of sound in",
    ):
        assert word in printed
    assert len(printed.splitlines()) <= 40
    assert "SIGTERM received" in (tmp_path / "server.log").read_text()


def test_an_interrupt_stops_the_demonstration_and_its_server(served_checkpoint: Path, tmp_path: Path) -> None:
    with demo(served_checkpoint, tmp_path) as process:
        assert process.stdout is not None
        first_line = process.stdout.readline()
        assert "starting a server" in first_line
        assert wait_for(lambda: bool(psutil.Process(process.pid).children()))
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, printed
    assert "interrupted" in printed
    _, left = psutil.wait_procs(children, timeout=SECONDS)
    assert left == []


def test_a_server_that_does_not_start_is_reported_with_the_reason(tmp_path: Path) -> None:
    with demo(tmp_path / "nothing", tmp_path) as process:
        printed, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "no such file or directory" in printed
