"""``speechlm client`` with a server."""

from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
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


@pytest.mark.parametrize("name", ["kept.wav", "link.wav", "nowhere/new.wav", "."])
def test_only_a_new_file_is_written(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kept.wav").write_bytes(b"mine")
    (tmp_path / "link.wav").symlink_to(tmp_path / "kept.wav")
    with pytest.raises(SystemExit):
        client.main(["Hello", "--url", "http://127.0.0.1:9/v1", "--output", str(tmp_path / name)])
    assert "argument --output" in capsys.readouterr().err
    assert (tmp_path / "kept.wav").read_bytes() == b"mine"


def test_a_response_that_is_not_a_chat_answer_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with HTTPServer(("127.0.0.1", 0), _Page) as page, ThreadPoolExecutor(1) as threads:
        threads.submit(page.handle_request)
        assert client.main(["Hello", "--url", f"http://127.0.0.1:{page.server_port}/v1"]) == 1
    assert "not a chat answer: <html>" in capsys.readouterr().err


class _Page(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>")


def test_a_clip_is_sent_and_answered(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    clip = Path(client.__file__).parent / "demo" / "question.wav"
    assert client.main(["--clip", str(clip), "--url", f"{server.url}/v1", "--max-tokens", "20"]) == 0
    assert capsys.readouterr().out.strip()


def test_a_refusal_is_printed(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert client.main(["Hello", "--url", f"{server.url}/v1", "--model", "unknown"]) == 1
    assert "'unknown' is not served here" in capsys.readouterr().err


def test_an_unreachable_server_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert client.main(["Hello", "--url", "http://127.0.0.1:9/v1"]) == 1
    assert "http://127.0.0.1:9/v1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Hello", "--url", "http://[::1/v1"], "error: http://[::1/v1: "),
        (["Hello", "--api-key", "ä"], "error: the key must be ASCII"),
        (["\udcff"], "and the text Unicode"),
    ],
)
def test_what_cannot_be_sent_is_an_error(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert client.main(["--url", "http://127.0.0.1:9/v1", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_an_empty_variable_is_no_url(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "")
    with pytest.raises(SystemExit):
        client.main(["--help"])
    assert "(default: http://127.0.0.1:9000/v1" in " ".join(capsys.readouterr().out.split())
