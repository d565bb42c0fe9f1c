"""The examples run and write the files that they promise."""

import io
import os
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
import soundfile
from server import SECONDS, Server

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = {
    "speak.py": ("answer.wav",),
    "stream.py": ("answer.pcm",),
    "read_aloud.py": ("speech.wav",),
    "transcribe.py": (),
    "converse.py": ("turn-0.wav", "turn-1.wav"),
    "voices.py": ("voice-1.0.wav", "voice-1.5.wav", "voice-2.0.wav"),
}


def test_every_example_is_in_the_readme_and_tested() -> None:
    examples = {file.name for file in EXAMPLES.glob("*.py")}
    assert examples == set(FILES)
    readme = (EXAMPLES / "README.md").read_text()
    assert all(f"[{name}]({name})" in readme for name in (*examples, "node/talk.mjs"))


@pytest.mark.parametrize("name", FILES)
def test_an_example_runs(
    name: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.setattr("sys.argv", [name])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert capsys.readouterr().out.strip()
    for file in FILES[name]:
        data = (tmp_path / file).read_bytes()
        assert data
        if file.endswith(".wav"):
            assert soundfile.info(io.BytesIO(data)).frames > 0


@pytest.mark.skipif(
    not shutil.which("node") or not (EXAMPLES / "node" / "node_modules" / "openai").is_dir(),
    reason="needs node, and npm install in examples/node",
)
def test_the_node_example_runs(server: Server, tmp_path: Path) -> None:
    result = subprocess.run(
        ["node", EXAMPLES / "node" / "talk.mjs"],
        cwd=tmp_path,
        env={**os.environ, "OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": "none"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "heard:" in result.stdout
    assert "answered:" in result.stdout
    for name in ("speech.wav", "answer.wav"):
        assert soundfile.info(tmp_path / name).frames > 0
    assert (tmp_path / "stream.pcm").stat().st_size > 0
