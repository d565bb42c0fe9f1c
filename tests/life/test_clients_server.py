"""The four clients' scripts with a real server."""

import runpy
import signal
import subprocess
import sys
import wave
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest
from core.options import SAMPLES
from server import Server, wait_for

CLIENTS = Path(__file__).parents[2] / "clients"
LISTEN, SPEAK = ((SAMPLES / name).read_bytes().count(b"\n") for name in ("listen.jsonl", "speak.jsonl"))


def command(server: Server, script: str, *options: str) -> list[str]:
    return [sys.executable, str(CLIENTS / script), "--port", str(urlsplit(server.url).port), *options]


@pytest.fixture
def finish(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Return what runs a client's script that answers every line, in this process, and returns what it prints."""

    def run(script: str, *options: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", command(server, script, *options)[1:])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(CLIENTS / script), run_name="__main__")
        printed = capsys.readouterr()
        assert ended.value.code == 0, printed
        return printed.out

    return run


def records(path: Path) -> list[Any]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def lines_of(path: Path) -> list[int]:
    return sorted(record["line"] for record in records(path))


def holds(path: Path, count: int) -> bool:
    return path.exists() and path.read_bytes().count(b"\n") >= count


def test_client_answers_and_scores_the_samples(finish: Callable[..., str], tmp_path: Path) -> None:
    printed = finish("client.py", "--concurrency", "8")
    output = tmp_path / "test" / "output"
    assert lines_of(output / "text.jsonl") == list(range(1, LISTEN + 1))
    assert f" {LISTEN} of {LISTEN} answered" in printed
    assert len(orjson.loads((output / "text.results.json").read_bytes())) == LISTEN
    (task,) = orjson.loads((output / "text.summary.json").read_bytes())["tasks"]
    assert task["accuracy"]["of"] == LISTEN
    assert set(task["accuracy"]["by"]) == {"task", "category", "difficulty"}
    assert task["accuracy"]["by"]["task"]["speech"]["of"] == 3
    assert (output / "text.summary.png").read_bytes().startswith(b"\x89PNG")


def test_client_accepts_the_options_of_the_guide(finish: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(b"".join((SAMPLES / "speak.jsonl").read_bytes().splitlines(True)[:3]))
    options = ("--input", "data.jsonl", "--output", "results.jsonl", "--concurrency", "128")
    finish("client.py", *options)
    assert lines_of(tmp_path / "results.jsonl") == [1, 2, 3]


def test_client_audiogen_cfg_saves_sounds(finish: Callable[..., str], tmp_path: Path) -> None:
    finish("client_audiogen_cfg.py", "--concurrency", "8", "--num-examples", "5")
    answered = records(tmp_path / "test" / "output" / "audiogen_cfg3.jsonl")
    assert len(answered) == 5
    sounding = [record for record in answered if record["audio_seconds"]]
    assert len(sounding) > 2
    for record in sounding:
        assert Path(record["wav"]).parent == Path("test/hard")
        with wave.open(str(tmp_path / record["wav"])) as sound:
            assert sound.getnframes() / sound.getframerate() == record["audio_seconds"]
    assert not any("right" in record for record in answered)


def test_client_audiogen_cfg_without_guidance_writes_separate_files(finish: Callable[..., str], tmp_path: Path) -> None:
    options = ("--cfg", "1.0", "--save-dir", "test/hard_nocfg", "--concurrency", "8")
    finish("client_audiogen_cfg.py", *options)
    assert lines_of(tmp_path / "test" / "output" / "audiogen_cfg1.jsonl") == list(range(1, SPEAK + 1))
    assert list((tmp_path / "test" / "hard_nocfg").glob("*.wav"))


@pytest.mark.parametrize(("script", "name"), [("client_all.py", "all"), ("client_all_4gpu.py", "all_4gpu")])
def test_client_all_runs_all_tasks_at_once(finish: Callable[..., str], tmp_path: Path, script: str, name: str) -> None:
    finish(script, "--concurrency", "64", "--cfg", "2.0", "--num-examples", "3")
    output = tmp_path / "test" / "output"
    for task in ("text", "audiogen", "audiogen_cfg"):
        assert lines_of(output / f"{name}_cfg2_{task}.jsonl") == [1, 2, 3]
    summary = orjson.loads((output / f"{name}_cfg2.summary.json").read_bytes())
    assert [task["cfg"] for task in summary["tasks"]] == [None, 1.0, 2.0]
    answered = [records(path) for path in output.glob("*.jsonl")]
    begins = [min(record["finished"] - record["seconds"] for record in task_records) for task_records in answered]
    assert max(begins) < min(record["finished"] for task_records in answered for record in task_records)
    assert list((tmp_path / "test" / name / "audiogen_cfg").glob("*.wav"))


def test_a_killed_client_resumes_without_losing_or_repeating_a_line(
    server: Server, finish: Callable[..., str], tmp_path: Path
) -> None:
    line = b'{"example_id": "same", "messages": [["user", "text", "Say something."]]}\n'
    count = 12
    (tmp_path / "in.jsonl").write_bytes(line * count)
    output = tmp_path / "out.jsonl"
    options = ["--input", "in.jsonl", "--output", "out.jsonl", "--concurrency", "4"]
    kills = 0
    for least in (1, 4):
        client = subprocess.Popen(command(server, "client_audiogen_cfg.py", *options), cwd=tmp_path)
        assert wait_for(partial(holds, output, least))
        client.send_signal(signal.SIGKILL)
        kills += client.wait() == -signal.SIGKILL
        with output.open("ab") as file:
            file.write(output.read_bytes()[:50])
    assert kills == 2
    before = output.read_bytes().splitlines(keepends=True)[:-1]
    assert len(before) < count
    finish("client_audiogen_cfg.py", *options)
    assert lines_of(output) == list(range(1, count + 1))
    assert output.read_bytes().splitlines(keepends=True)[: len(before)] == before
    (task,) = orjson.loads((tmp_path / "out.summary.json").read_bytes())["tasks"]
    assert (task["answered"], task["runs"]) == (count, 3)


def test_a_refused_request_fails_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"no sound at all")
    lines = [
        {"example_id": "broken", "messages": [["user", "audio", "broken.wav"], ["user", "text", "What is it?"]]},
        {"example_id": "whole", "messages": [["user", "text", "Hello."]]},
    ]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    result = subprocess.run(
        command(server, "client.py", "--input", "in.jsonl"), cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "in.jsonl, line 1: http_400: messages[0].content[0].input_audio.data" in result.stderr
    assert lines_of(tmp_path / "test" / "output" / "text.jsonl") == [2]
