"""``speechlm client`` against a server."""

from pathlib import Path

import pytest
import soundfile
from server import Server

from sglang_speechlm import client


def test_the_answer_is_printed_and_its_sound_written(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "answer.wav"
    assert client.main(["Hello", "--url", f"{server.url}/v1", "--output", str(output), "--max-tokens", "900"]) == 0
    assert capsys.readouterr().out.strip()
    assert soundfile.info(output).frames > 0


def test_an_answer_without_sound_writes_no_file(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "answer.wav"
    assert client.main(["Hello", "--url", f"{server.url}/v1", "--output", str(output), "--max-tokens", "1"]) == 1
    assert f"{output}: not written" in capsys.readouterr().err
    assert not output.exists()


def test_a_clip_is_heard(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    clip = Path(client.__file__).parent / "demo" / "question.wav"
    assert client.main(["--clip", str(clip), "--url", f"{server.url}/v1", "--max-tokens", "20"]) == 0
    assert capsys.readouterr().out.strip()


def test_a_refusal_is_printed(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert client.main(["Hello", "--url", f"{server.url}/v1", "--model", "unknown"]) == 1
    assert "'unknown' is not served here" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert client.main(["Hello", "--url", "http://127.0.0.1:9/v1"]) == 1
    assert "http://127.0.0.1:9/v1" in capsys.readouterr().err
