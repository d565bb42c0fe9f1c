"""What a server writes to its log: a line for every request, with its id, and nothing that was said."""

import base64
import json
import logging
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
SECRET = "rhododendron"
CHAT = "/v1/chat/completions"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
SOUND = wav(clip(41, 0.5))


@pytest.fixture(scope="module")
def operated(served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server as it runs in production: a key, metrics, a log of JSON."""
    options = ("--max-total-tokens", "8192", "--enable-metrics", "--api-key", KEY, "--log-format", "json")
    with serving(served_checkpoint, tmp_path_factory.mktemp("operated") / "log", *options) as running:
        yield running


@pytest.fixture
def http_client(operated: Server) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=operated.url, headers=headers, timeout=SECONDS, trust_env=False) as client:
        yield client


def lines(server: Server) -> list[dict[str, Any]]:
    """The lines that are JSON; libraries also print warnings of their own while they are loaded."""
    return [json.loads(line) for line in server.output().splitlines() if line.startswith("{")]


def request_line(server: Server, request: str) -> dict[str, Any]:
    """The one line of a request; it is written once its answer has gone out."""

    def found() -> list[dict[str, Any]]:
        return [line for line in lines(server) if line.get("event") == "request" and line["request_id"] == request]

    assert wait_for(lambda: bool(found()))
    (line,) = found()
    return line


def said(content: Any = SECRET, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 40, **fields}


def spoken(**ours: Any) -> dict[str, Any]:
    return said(speechlm={"mode": "text_audio", "text": SECRET, "audio_max_frames": 20, **ours})


HEARD = said(
    [{"type": "input_audio", "input_audio": {"data": SOUND, "format": "wav"}}, {"type": "text", "text": SECRET}]
)
ASKED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "text": (said(), {"kind": "text", "heard": False, "frames": 0}),
    "spoken": (spoken(), {"kind": "spoken", "heard": False}),
    "streamed": ({**spoken(), "stream": True}, {"kind": "spoken", "heard": False}),
    "guided": (spoken(cfg=3.0), {"kind": "guided", "heard": False}),
    "heard": (HEARD, {"kind": "text", "heard": True, "frames": 0}),
}


@pytest.mark.parametrize("name", ASKED)
def test_a_request_has_one_line_with_its_id_kind_and_counts(
    name: str, operated: Server, http_client: httpx.Client
) -> None:
    body, expected = ASKED[name]
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
    http_client.post(CHAT, json=said(n=3, seed=1), headers={"x-request-id": "three"})
    line = request_line(operated, "three")
    assert line["replies"] == 3
    assert line["text_tokens"] > 3


def test_a_client_that_leaves_has_a_line_that_says_so(operated: Server, http_client: httpx.Client) -> None:
    body = {**spoken(audio_min_frames=3000, audio_max_frames=3000), "max_tokens": 3500, "stream": True}
    with http_client.stream("POST", CHAT, json=body, headers={"x-request-id": "left"}) as response:
        next(response.iter_lines())
    assert request_line(operated, "left")["finish_reason"] == "abort"


def test_a_trace_gives_the_id_where_there_is_no_other(operated: Server, http_client: httpx.Client) -> None:
    response = http_client.post(CHAT, json=said(max_tokens=1), headers={"traceparent": PARENT})
    assert response.headers["x-request-id"] == TRACE
    assert request_line(operated, TRACE)["status"] == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "key", "status"),
    [
        ("POST", CHAT, {"messages": SECRET}, KEY, 400),
        ("POST", CHAT, said(speechlm={"mode": SECRET}), KEY, 400),
        ("POST", "/generate", {"text": SECRET, "sampling_params": {"top_k": SECRET}}, KEY, 400),
        ("POST", CHAT, said(), "wrong", 401),
        ("GET", f"/v1/models?{SECRET}", None, "wrong", 401),
        ("GET", f"/nowhere?{SECRET}", None, KEY, 404),
        ("GET", CHAT, None, KEY, 405),
    ],
)
def test_what_is_refused_has_an_id_and_a_line(
    method: str, path: str, body: Any, key: str, status: int, operated: Server, http_client: httpx.Client
) -> None:
    response = http_client.request(method, path, json=body, headers={"Authorization": f"Bearer {key}"})
    assert response.status_code == status
    line = request_line(operated, response.headers["x-request-id"])
    assert (line["route"], line["status"]) == (path.partition("?")[0], status)


def test_probes_have_no_line(operated: Server, http_client: httpx.Client) -> None:
    for path in ("/health", "/metrics"):
        response = http_client.get(path, headers={"x-request-id": f"probe{path}"})
        assert response.status_code == 200
    http_client.get("/v1/models", headers={"x-request-id": "after-the-probes"})
    request_line(operated, "after-the-probes")
    assert not [line for line in lines(operated) if line.get("request_id", "").startswith("probe/")]


def test_nothing_that_was_said_is_in_the_log(operated: Server, http_client: httpx.Client) -> None:
    file = {"file": (f"{SECRET}.wav", base64.b64decode(SOUND))}
    asked: dict[str, dict[str, Any]] = {
        CHAT: {"json": HEARD},
        "/generate": {"json": {"text": SECRET, "sampling_params": {"max_new_tokens": 4}}},
        "/v1/audio/speech": {"json": {"input": SECRET, "instructions": SECRET, "response_format": "wav"}},
        "/v1/audio/transcriptions": {"files": file, "data": {"prompt": SECRET}},
    }
    for path, body in asked.items():
        assert http_client.post(path, **body, headers={"x-request-id": f"said{path}"}).status_code == 200
        request_line(operated, f"said{path}")
    assert SECRET not in operated.output()
    assert SOUND[200:260] not in operated.output()


def test_the_key_is_not_in_the_log(operated: Server) -> None:
    assert "'api_key': '***'" in operated.output()
    assert KEY not in operated.output()


@pytest.mark.parametrize("path", ["/server_info", "/get_server_info"])
def test_the_key_is_not_among_the_options_that_it_tells(path: str, http_client: httpx.Client) -> None:
    response = http_client.get(path)
    assert response.json()["api_key"] == "***"
    assert KEY not in response.text
    assert response.json()["internal_states"]


def test_every_process_writes_json(operated: Server) -> None:
    assert {"sglang.srt.managers.scheduler", "sglang.srt.entrypoints.engine", "uvicorn.error"} <= {
        line["logger"] for line in lines(operated)
    }


def test_every_line_has_time_level_logger_and_process(operated: Server) -> None:
    for line in lines(operated):
        assert {"time", "level", "logger", "pid"} <= set(line)


def test_text_lines_hold_the_same(server: Server) -> None:
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


def test_what_is_no_valid_text_is_written_too() -> None:
    record = logging.LogRecord("name", logging.INFO, __file__, 1, "a \ud800 b", (), None)
    assert json.loads(JsonLines().format(record))["message"] == "a \ud800 b"


def test_a_server_that_another_starts_writes_json_from_its_level_on() -> None:
    configured = (
        "import logging, subprocess, sys; from sglang_speechlm import logs; logs.configure('json', 'warning'); "
    )
    inner = configured + "log = logging.getLogger('inner'); log.info('quiet'); log.warning('loud'); "
    inner += "from uvicorn import Config; Config('x').configure_logging(); logging.getLogger('uvicorn').error('web')"
    outer = configured + f"subprocess.run([sys.executable, '-c', {inner!r}], check=True)"
    ran = subprocess.run([sys.executable, "-c", outer], capture_output=True, text=True, check=True)
    assert [json.loads(line)["message"] for line in ran.stderr.splitlines()] == ["loud", "web"]


# Ids


@given(st.text(max_size=200))
def test_an_id_is_never_more_than_one_word(given_id: str) -> None:
    made = request_id({"x-request-id": given_id})
    assert made.isascii()
    assert made.isprintable()
    assert not set(made) & set(' "\\')
    assert 1 <= len(made) <= 128


def test_an_id_of_its_own_is_made_for_each_request() -> None:
    assert request_id({}) != request_id({})


@pytest.mark.parametrize("header", [f"ff{PARENT[2:]}", f"00-{'0' * 32}-{'1' * 16}-01", PARENT.upper(), TRACE, ""])
def test_a_traceparent_that_is_none_is_not_taken_on(header: str) -> None:
    assert request_id({"traceparent": header}) != TRACE
    assert trace_headers({"traceparent": header}) == {}


def test_a_trace_is_taken_on_with_its_state() -> None:
    headers = {"traceparent": PARENT, "tracestate": "a=1", "cookie": "x"}
    assert trace_headers(headers) == {"traceparent": PARENT, "tracestate": "a=1"}
