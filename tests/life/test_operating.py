"""The server's log: one line per request with its id, and no content of requests or answers."""

import base64
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from server import BY_NAME, SECONDS, Server, clip, serving, wait_for, wav

from sglang_speechlm.logs import JsonLines, request_id, trace_headers

KEY = "sesame-for-nobody-else"
OPERATING = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
SECRET = "rhododendron"
CHAT = "/v1/chat/completions"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
SOUND = wav(clip(41, 0.5))


@pytest.fixture(scope="module")
def operated(served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a server as in production: with a key, metrics and a JSON log."""
    options = ("--max-total-tokens", "8192", "--enable-metrics", "--api-key", KEY, "--log-format", "json")
    with serving(served_checkpoint, tmp_path_factory.mktemp("operated") / "log", *options) as started:
        yield started


@pytest.fixture
def http_client(operated: Server) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=operated.url, headers=headers, timeout=SECONDS, trust_env=False) as client:
        yield client


def lines(server: Server) -> list[dict[str, Any]]:
    """Return the JSON lines; libraries also print warnings while they are loaded."""
    return [json.loads(line) for line in server.output().splitlines() if line.startswith("{")]


def request_line(server: Server, request: str) -> dict[str, Any]:
    """Return the only line of a request, which is written after its answer is sent."""

    def found() -> list[dict[str, Any]]:
        return [line for line in lines(server) if line.get("event") == "request" and line["request_id"] == request]

    assert wait_for(lambda: bool(found()))
    (line,) = found()
    return line


def chat_body(content: Any = SECRET, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 40, **fields}


def spoken_body(**fields: Any) -> dict[str, Any]:
    return chat_body(speechlm={"mode": "text_audio", "text": SECRET, "audio_max_frames": 20, **fields})


HEARD = chat_body(
    [{"type": "input_audio", "input_audio": {"data": SOUND, "format": "wav"}}, {"type": "text", "text": SECRET}]
)
BODIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "text": (chat_body(), {"kind": "text", "heard": False, "frames": 0}),
    "spoken": (spoken_body(), {"kind": "spoken", "heard": False}),
    "streamed": ({**spoken_body(), "stream": True}, {"kind": "spoken", "heard": False}),
    "guided": (spoken_body(cfg=3.0), {"kind": "guided", "heard": False}),
    "heard": (HEARD, {"kind": "text", "heard": True, "frames": 0}),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_request_has_one_log_line_with_its_id_kind_and_counts(
    name: str, operated: Server, http_client: httpx.Client
) -> None:
    body, expected = BODIES[name]
    response = http_client.post(CHAT, json=body, headers={"x-request-id": f"mine-{name}"})
    assert response.status_code == 200
    assert response.headers["x-request-id"] == f"mine-{name}"
    line = request_line(operated, f"mine-{name}")
    assert expected.items() <= line.items()
    assert (line["method"], line["route"], line["status"]) == ("POST", CHAT, 200)
    assert line["seconds"] > 0
    assert line["finish_reason"] in ("stop", "length")
    if name != "streamed":
        answer = response.json()
        assert line["id"].startswith(answer["id"])
        assert line["prompt_tokens"] == answer["usage"]["prompt_tokens"]
        assert line["cached_tokens"] == answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        frames = answer["usage"]["completion_tokens_details"]["audio_tokens"]
        assert line["frames"] == frames - (line["kind"] != "text" and line["finish_reason"] == "stop")
        if line["kind"] == "text":
            assert line["text_tokens"] == answer["usage"]["completion_tokens"]


def test_the_choices_of_a_request_are_counted_together(operated: Server, http_client: httpx.Client) -> None:
    http_client.post(CHAT, json=chat_body(n=3, seed=1), headers={"x-request-id": "three"})
    line = request_line(operated, "three")
    assert line["replies"] == 3
    assert line["text_tokens"] > 3


def test_every_field_of_a_requests_line_is_in_the_table(operated: Server, http_client: httpx.Client) -> None:
    http_client.post(CHAT, json=spoken_body(), headers={"x-request-id": "documented"})
    table = OPERATING.partition("## Logs")[2].partition("\n## ")[0]
    documented = {
        name for row in re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE) for name in re.findall(r"\w+", row)
    }
    assert set(request_line(operated, "documented")) == documented


def test_a_disconnected_client_is_logged_as_an_abort(operated: Server, http_client: httpx.Client) -> None:
    body = {**spoken_body(audio_min_frames=3000, audio_max_frames=3000), "max_tokens": 3500, "stream": True}
    with http_client.stream("POST", CHAT, json=body, headers={"x-request-id": "left"}) as response:
        next(response.iter_lines())
    assert request_line(operated, "left")["finish_reason"] == "abort"


def test_a_trace_id_is_the_request_id_if_there_is_no_other(operated: Server, http_client: httpx.Client) -> None:
    response = http_client.post(CHAT, json=chat_body(max_tokens=1), headers={"traceparent": PARENT})
    assert response.headers["x-request-id"] == TRACE
    assert request_line(operated, TRACE)["status"] == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "key", "status"),
    [
        ("POST", CHAT, {"messages": SECRET}, KEY, 400),
        ("POST", CHAT, chat_body(speechlm={"mode": SECRET}), KEY, 400),
        ("POST", "/generate", {"text": SECRET, "sampling_params": {"top_k": SECRET}}, KEY, 400),
        ("POST", CHAT, chat_body(), "wrong", 401),
        ("GET", f"/v1/models?{SECRET}", None, "wrong", 401),
        ("GET", f"/nowhere?{SECRET}", None, KEY, 404),
        ("GET", CHAT, None, KEY, 405),
    ],
)
def test_a_refused_request_has_an_id_and_a_log_line(
    method: str, path: str, body: Any, key: str, status: int, operated: Server, http_client: httpx.Client
) -> None:
    response = http_client.request(method, path, json=body, headers={"Authorization": f"Bearer {key}"})
    assert response.status_code == status
    line = request_line(operated, response.headers["x-request-id"])
    assert (line["route"], line["status"]) == (path.partition("?")[0], status)


def test_probes_are_not_logged(operated: Server, http_client: httpx.Client) -> None:
    for path in ("/health", "/metrics"):
        response = http_client.get(path, headers={"x-request-id": f"probe{path}"})
        assert response.status_code == 200
    http_client.get("/v1/models", headers={"x-request-id": "after-the-probes"})
    request_line(operated, "after-the-probes")
    assert not [line for line in lines(operated) if line.get("request_id", "").startswith("probe/")]


def test_no_content_is_in_the_log(operated: Server, http_client: httpx.Client) -> None:
    file = {"file": (f"{SECRET}.wav", base64.b64decode(SOUND))}
    requests: dict[str, dict[str, Any]] = {
        CHAT: {"json": HEARD},
        "/generate": {"json": {"text": SECRET, "sampling_params": {"max_new_tokens": 4}}},
        "/v1/audio/speech": {"json": {"input": SECRET, "instructions": SECRET, "response_format": "wav"}},
        "/v1/audio/transcriptions": {"files": file, "data": {"prompt": SECRET}},
    }
    for path, body in requests.items():
        assert http_client.post(path, **body, headers={"x-request-id": f"said{path}"}).status_code == 200
        request_line(operated, f"said{path}")
    assert SECRET not in operated.output()
    assert SOUND[200:260] not in operated.output()


def test_the_key_is_not_in_the_log(operated: Server) -> None:
    assert "'api_key': '***'" in operated.output()
    assert KEY not in operated.output()


@pytest.mark.parametrize("path", ["/server_info", "/get_server_info"])
def test_server_info_masks_the_key(path: str, http_client: httpx.Client) -> None:
    response = http_client.get(path)
    assert response.json()["api_key"] == "***"
    assert KEY not in response.text
    assert response.json()["internal_states"]


def test_every_process_writes_json(operated: Server) -> None:
    assert {"sglang.srt.managers.scheduler", "sglang.srt.entrypoints.engine", "uvicorn.error"} <= {
        line["logger"] for line in lines(operated)
    }


def test_every_log_line_has_time_level_logger_and_process(operated: Server) -> None:
    written = lines(operated)
    assert written
    for line in written:
        assert {"time", "level", "logger", "pid"} <= set(line)


def test_text_lines_hold_the_same_fields(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=SECONDS, trust_env=False) as client:
        client.post(CHAT, json=BY_NAME["text"].body(), headers={"x-request-id": "as-text"})
    assert wait_for(lambda: "request_id=as-text" in server.output())
    (line,) = (line for line in server.output().splitlines() if "request_id=as-text" in line)
    assert f"method=POST route={CHAT} status=200" in line
    assert "kind=text" in line


def test_an_exception_is_one_line_of_json() -> None:
    try:
        raise RuntimeError("two\nlines")
    except RuntimeError:
        record = logging.LogRecord("name", logging.ERROR, __file__, 1, "it %s", ("failed",), sys.exc_info())
    written = JsonLines().format(record)
    assert "\n" not in written
    line = json.loads(written)
    assert line["message"] == "it failed"
    assert "RuntimeError: two\nlines" in line["exception"]


def test_invalid_unicode_is_logged() -> None:
    record = logging.LogRecord("name", logging.INFO, __file__, 1, "a \ud800 b", (), None)
    assert json.loads(JsonLines().format(record))["message"] == "a \ud800 b"


def test_a_child_process_inherits_the_log_format_and_level() -> None:
    configured = (
        "import logging, subprocess, sys; from sglang_speechlm import logs; logs.configure('json', 'warning'); "
    )
    inner = configured + "log = logging.getLogger('inner'); log.info('quiet'); log.warning('loud'); "
    inner += "from uvicorn import Config; Config('x').configure_logging(); logging.getLogger('uvicorn').error('web')"
    outer = configured + f"subprocess.run([sys.executable, '-c', {inner!r}], check=True)"
    result = subprocess.run([sys.executable, "-c", outer], capture_output=True, text=True, check=True)
    assert [json.loads(line)["message"] for line in result.stderr.splitlines()] == ["loud", "web"]


# Ids


@given(st.text(max_size=200))
def test_a_request_id_is_always_one_ascii_word(given_id: str) -> None:
    returned = request_id({"x-request-id": given_id})
    assert returned.isascii()
    assert returned.isprintable()
    assert not set(returned) & set(' "\\')
    assert 1 <= len(returned) <= 128


def test_each_request_gets_a_new_id() -> None:
    assert request_id({}) != request_id({})


@pytest.mark.parametrize("header", [f"ff{PARENT[2:]}", f"00-{'0' * 32}-{'1' * 16}-01", PARENT.upper(), TRACE, ""])
def test_an_invalid_traceparent_is_ignored(header: str) -> None:
    assert request_id({"traceparent": header}) != TRACE
    assert trace_headers({"traceparent": header}) == {}


def test_a_trace_is_forwarded_with_its_state() -> None:
    headers = {"traceparent": PARENT, "tracestate": "a=1", "cookie": "x"}
    assert trace_headers(headers) == {"traceparent": PARENT, "tracestate": "a=1"}
