"""The limits, permissions and keys that an operator sets when starting a server."""

import base64
import contextlib
import http.server
import io
import itertools
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile
from server import SECONDS, Server, clip, listening_addresses, raw_status, refused, serving, wait_for, wav

KEY = "sesame"
TIME_LIMIT = 8
MAX_BODY = 1 << 20
CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "Hello."}
CLIP = clip(31, 0.5)


@dataclass
class Files:
    """An HTTP server of clips on the loopback: its port and the requested paths."""

    port: int = 0
    requested: list[str] = field(default_factory=list)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/{path}"


def flac() -> bytes:
    encoded = io.BytesIO()
    soundfile.write(encoded, CLIP, 16000, format="FLAC")
    return encoded.getvalue()


@pytest.fixture(scope="module")
def files() -> Iterator[Files]:
    file_server = Files()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            file_server.requested.append(self.path)
            status = {"/moved.flac": 302, "/gone.flac": 404}.get(self.path, 200)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/clip.flac")
            self.end_headers()
            with contextlib.suppress(OSError):
                if self.path == "/large.flac":
                    for _ in range(64):
                        self.wfile.write(b"\0" * (MAX_BODY // 8))
                elif self.path != "/empty.flac":
                    self.wfile.write(flac())

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        file_server.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield file_server
        server.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("media")
    folder = parent / "clips"
    folder.mkdir()
    (folder / "clip.flac").write_bytes(flac())
    (parent / "secret.flac").write_bytes(flac())
    (folder / "link.flac").symlink_to(parent / "secret.flac")
    return folder


@pytest.fixture(scope="module")
def limited(
    served_checkpoint: Path, files: Files, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Start a server with a key and tight limits."""
    template = folder.parent / "speech.json"
    template.write_text('{"messages": [{"role": "user", "content": "{input}"}]}')
    hosts = f"127.0.0.1:{files.port},localhost:{files.port}"
    options = (
        "--max-total-tokens", "32768", "--max-running-requests", "6", "--max-queued-requests", "2",
        "--api-key", KEY, "--max-body-mib", str(MAX_BODY >> 20), "--max-clips", "2",
        "--request-timeout-secs", str(TIME_LIMIT), "--max-kept-answers", "1", "--enable-metrics",
        "--allowed-media-domains", hosts, "--allowed-media-path", str(folder), "--speech-template", str(template),
    )  # fmt: skip
    with serving(served_checkpoint, tmp_path_factory.mktemp("limited") / "log", *options) as started:
        yield started


def client_of(server: Server) -> httpx.Client:
    """Return a client with the key."""
    headers = {"Authorization": f"Bearer {KEY}"}
    return httpx.Client(base_url=server.url, headers=headers, timeout=SECONDS, trust_env=False, verify=False)


@pytest.fixture
def http_client(limited: Server) -> Iterator[httpx.Client]:
    with client_of(limited) as client:
        yield client


def chat_body(**fields: Any) -> dict[str, Any]:
    return {"messages": [USER], "max_tokens": 2, **fields}


def body_with_urls(*urls: str) -> dict[str, Any]:
    parts = [{"type": "audio_url", "audio_url": {"url": url}} for url in urls]
    return chat_body(messages=[{"role": "user", "content": parts}])


def load(client: httpx.Client) -> dict[str, int]:
    loads: list[dict[str, int]] = client.get("/v1/loads", params={"include": "core"}).json()["loads"]
    return loads[0]


def is_running(client: httpx.Client, count: int) -> bool:
    return load(client)["num_running_reqs"] == count


def unfinished_requests(client: httpx.Client) -> int:
    figures = load(client)
    return figures["num_running_reqs"] + figures["num_waiting_reqs"]


# Keys


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", CHAT), ("POST", "/v1/audio/speech"), ("POST", "/v1/audio/transcriptions"), ("POST", "/generate"),
        ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/metrics/"), ("GET", "/health_generate"),
        ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/v1/loads"), ("GET", "/"),
        ("GET", "/server_info"), ("POST", "/flush_cache"), ("POST", "/abort_request"), ("GET", "/nothing"),
        ("OPTIONS", CHAT), ("OPTIONS", "/metrics"), ("HEAD", "/metrics"), ("GET", "/health/x"),
        ("GET", "/%68ealth_generate"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"Authorization": b"Bearer \xff"},
        {"Access-Control-Request-Method": "GET"},
    ],
)
def test_nothing_answers_without_the_key(method: str, path: str, headers: dict[str, Any], limited: Server) -> None:
    url = f"{limited.url}{path}"
    response = httpx.request(method, url, headers=headers, timeout=SECONDS, trust_env=False, verify=False)
    assert response.status_code == 401
    if method != "HEAD":
        assert refused(response, 401)["code"] == "invalid_api_key"


def test_health_answers_without_the_key(limited: Server) -> None:
    for path in ("/health", "/health/", "//health", "/%68ealth"):
        assert raw_status(limited.url, "GET", path) == raw_status(limited.url, "HEAD", path) == 200


def test_requests_with_the_key_are_answered(http_client: httpx.Client) -> None:
    assert http_client.post(CHAT, json=chat_body()).status_code == 200
    assert http_client.get("/metrics").status_code == 200
    assert http_client.get("/v1/models", headers={"Authorization": f"bEaReR {KEY}"}).status_code == 200


# Sizes


@pytest.mark.parametrize("path", [CHAT, "/v1/audio/speech", "/generate"])
@pytest.mark.parametrize("is_declared", [True, False])
def test_an_oversized_body_is_refused(path: str, is_declared: bool, http_client: httpx.Client) -> None:
    body = json.dumps({**chat_body(), "input": "x" * MAX_BODY}).encode()
    pieces = body if is_declared else iter([body[i : i + 60_000] for i in range(0, len(body), 60_000)])
    headers = {"Content-Type": "application/json"}
    error = refused(http_client.post(path, content=pieces, headers=headers), 413)
    assert str(MAX_BODY) in error["message"]


def test_an_oversized_upload_is_refused(http_client: httpx.Client) -> None:
    refused(http_client.post("/v1/audio/transcriptions", files={"file": ("a.wav", b"\0" * MAX_BODY)}), 413)


@pytest.mark.parametrize("path", [CHAT, "/v1/audio/speech", "/v1/audio/transcriptions", "/generate", "/abort_request"])
def test_an_encoded_body_is_refused_and_its_encoding_named(path: str, http_client: httpx.Client) -> None:
    media_type = "multipart/form-data; boundary=x" if path.endswith("transcriptions") else "application/json"
    headers = {"Content-Type": media_type, "Content-Encoding": "br"}
    error = refused(http_client.post(path, content=json.dumps(chat_body()).encode(), headers=headers), 415)
    assert "'br'" in error["message"]


def test_a_body_with_too_many_values_is_refused(http_client: httpx.Client) -> None:
    error = refused(http_client.post(CHAT, json=chat_body(x=[1] * 200_000)), 413)
    assert "values" in error["message"]


def test_too_many_prompts_in_one_request_are_refused(http_client: httpx.Client) -> None:
    params = {"max_new_tokens": 1}
    refused(http_client.post("/generate", json={"text": ["a"] * 500, "sampling_params": params}))
    refused(http_client.post("/generate", json={"text": ["a"] * 100, "sampling_params": {**params, "n": 2}}))


def test_texts_are_limited_individually_and_in_total(http_client: httpx.Client) -> None:
    params = {"max_new_tokens": 1}
    for text in ("word " * 20_000, ["Hello.", "word " * 20_000], ["word " * 1_500] * 70):
        error = refused(http_client.post("/generate", json={"text": text, "sampling_params": params}))
        assert error["param"] == "text"


def test_the_server_listens_only_at_its_host(limited: Server) -> None:
    assert listening_addresses(limited.process.pid) == {"127.0.0.1"}


def test_a_body_is_not_read_beyond_the_limit(limited: Server) -> None:
    host, _, port = limited.url.removeprefix("http://").partition(":")
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(MAX_BODY // 65536 + 1):
            connection.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")


def test_a_request_with_too_many_clips_is_refused(http_client: httpx.Client) -> None:
    part = {"type": "input_audio", "input_audio": {"data": wav(CLIP), "format": "wav"}}
    message = {"role": "user", "content": [part]}
    assert http_client.post(CHAT, json=chat_body(messages=[message] * 2)).status_code == 200
    error = refused(http_client.post(CHAT, json=chat_body(messages=[message] * 3)))
    assert "more than 2 audio clips; got 3" in error["message"]


def test_the_number_of_kept_answers_is_limited(http_client: httpx.Client) -> None:
    spoken = chat_body(speechlm={"mode": "text_audio", "text": "Hi.", "audio_max_frames": 12}, max_tokens=20)
    ids = [http_client.post(CHAT, json=spoken).json()["choices"][0]["message"]["audio"]["id"] for _ in range(2)]
    messages = [[USER, {"role": "assistant", "audio": {"id": id}}, USER] for id in ids]
    refused(http_client.post(CHAT, json=chat_body(messages=messages[0])))
    assert http_client.post(CHAT, json=chat_body(messages=messages[1])).status_code == 200


# Clips by URL


def test_a_clip_is_fetched_from_an_allowed_host(http_client: httpx.Client, files: Files) -> None:
    response = http_client.post(CHAT, json=body_with_urls(files.url("clip.flac")))
    assert response.status_code == 200, response.text
    assert response.json()["usage"]["prompt_tokens_details"]["audio_tokens"] > 0
    assert files.requested.count("/clip.flac") == 1


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("moved.flac", "redirects are not followed"),
        ("gone.flac", "404"),
        ("empty.flac", "empty"),
        ("large.flac", f"must not exceed {MAX_BODY} bytes"),
    ],
)
def test_a_failed_fetch_from_an_allowed_host_is_refused_with_the_reason(
    path: str, complaint: str, http_client: httpx.Client, files: Files
) -> None:
    before = files.requested.count("/clip.flac")
    error = refused(http_client.post(CHAT, json=body_with_urls(files.url(path))))
    assert complaint in error["message"]
    assert error["param"] == "messages[0].content[0].audio_url.url"
    assert files.requested.count("/clip.flac") == before


def test_nothing_is_fetched_from_other_hosts(http_client: httpx.Client, files: Files) -> None:
    before = list(files.requested)
    for url in (
        files.url("x", "localhost"), files.url("x", "127.1"), files.url("x", "[::ffff:127.0.0.1]"),
        files.url("x", "user@127.0.0.1"), f"http://127.0.0.1:{files.port + 1}/x", f"https://127.0.0.1:{files.port}/x",
    ):  # fmt: skip
        refused(http_client.post(CHAT, json=body_with_urls(url)))
    assert files.requested == before


def test_a_file_is_read_only_inside_the_allowed_directory(http_client: httpx.Client, folder: Path) -> None:
    assert http_client.post(CHAT, json=body_with_urls(f"file://{folder}/clip.flac")).status_code == 200
    for name in ("link.flac", "../secret.flac", "none.flac", ""):
        refused(http_client.post(CHAT, json=body_with_urls(f"file://{folder}/{name}")))


# Templates


def test_the_operators_speech_template_is_used(http_client: httpx.Client) -> None:
    fields = {"audio_temperature": 0.0, "audio_max_frames": 20}
    speech = http_client.post(
        "/v1/audio/speech", json={"input": "Good day.", "response_format": "pcm", "speechlm": fields}
    )
    messages = [{"role": "user", "content": "Good day."}]
    spoken = {**fields, "mode": "text_audio", "text": "Good day."}
    body = chat_body(messages=messages, max_tokens=100, speechlm=spoken, audio={"format": "pcm16"})
    chat = http_client.post(CHAT, json=body).json()["choices"][0]["message"]["audio"]["data"]
    assert speech.content == base64.b64decode(chat)


# Timeouts and the queue: last, because they keep the server busy


def test_a_full_queue_returns_503_with_retry_after(http_client: httpx.Client) -> None:
    busy = chat_body(speechlm={"mode": "text_audio", "text": "Hi.", "audio_min_frames": 80}, max_tokens=90)

    def post(_: int) -> httpx.Response:
        return http_client.post(CHAT, json=busy)

    with ThreadPoolExecutor(10) as threads:
        responses = list(threads.map(post, range(10)))
    statuses = [response.status_code for response in responses]
    assert set(statuses) == {200, 503}
    for response in responses:
        if response.status_code == 503:
            refused(response, 503)
            assert int(response.headers["retry-after"]) >= 1
    assert http_client.post(CHAT, json=chat_body()).status_code == 200


RIDS = ("mine", "HEALTH_CHECK_mine")
UNARRIVED = (CHAT, "/v1/audio/transcriptions", "/generate", "/abort_request")


@pytest.fixture(scope="module")
def overdue(limited: Server) -> dict[str, Any]:
    """Return the responses at the deadline to requests of every kind, all of which run at the same time.

    The keys "chat" and the ids of stages hold a complete response and a streamed one; the routes of bodies that do not
    arrive hold the first bytes of the response.
    """
    params = {"max_new_tokens": 3600, "ignore_eos": True}
    endless: dict[str, tuple[str, dict[str, Any]]] = {
        "chat": (
            CHAT,
            chat_body(speechlm={"mode": "text_audio", "text": "Hi.", "audio_min_frames": 3500}, max_tokens=3600),
        ),
        **{rid: ("/generate", {"text": "On", "sampling_params": params, "rid": rid}) for rid in RIDS},
    }

    def post(name: str, stream: bool) -> httpx.Response:
        path, body = endless[name]
        own_id = {"rid": f"{name}{stream}"} if "rid" in body else {}
        with client_of(limited) as client:
            return client.post(path, json={**body, **own_id, "stream": stream})

    responses: dict[str, list[Future[httpx.Response]]] = {name: [] for name in endless}
    with ThreadPoolExecutor(2 * len(endless) + len(UNARRIVED)) as threads, client_of(limited) as client:
        for count, (name, stream) in enumerate(itertools.product(endless, (False, True)), 1):
            responses[name].append(threads.submit(post, name, stream))
            # Only two requests may wait, even for the next step.
            assert wait_for(partial(is_running, client, count))
        unarrived = {path: threads.submit(first_bytes_for_incomplete_body, limited, path) for path in UNARRIVED}
        answers: dict[str, Any] = {name: [answer.result() for answer in both] for name, both in responses.items()}
        return answers | {path: answer.result() for path, answer in unarrived.items()}


def first_bytes_for_incomplete_body(server: Server, path: str) -> bytes:
    """Send an incomplete body on a connection that stays open, and return the first bytes of the response."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    is_form = path.endswith("transcriptions")
    media_type, first_part = ("multipart/form-data; boundary=x", "--x") if is_form else ("application/json", "{")
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: {media_type}\r\n"
    with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
        connection.sendall(f"{head}Content-Length: 100\r\n\r\n{first_part}".encode())
        return connection.recv(1000)


def test_a_request_that_times_out_returns_504(overdue: dict[str, Any]) -> None:
    whole, streamed = overdue["chat"]
    refused(whole, 504)
    assert streamed.status_code == 200
    *chunks, error, done = [line for line in streamed.text.split("\n\n") if line]
    assert "audio" in chunks[-1]
    assert "time" in json.loads(error.removeprefix("data: "))["error"]["message"]
    assert done == "data: [DONE]"


@pytest.mark.parametrize("rid", RIDS)
def test_a_stage_that_times_out_returns_504(rid: str, overdue: dict[str, Any]) -> None:
    whole, streamed = overdue[rid]
    refused(whole, 504)
    *chunks, error, done = [line for line in streamed.text.split("\n\n") if line]
    assert json.loads(chunks[-1].removeprefix("data: "))["meta_info"]["id"] == f"{rid}True"
    assert "time" in json.loads(error.removeprefix("data: "))["error"]["message"]
    assert done == "data: [DONE]"


@pytest.mark.parametrize("path", UNARRIVED)
def test_a_body_that_does_not_arrive_times_out(path: str, overdue: dict[str, Any]) -> None:
    assert overdue[path].startswith(b"HTTP/1.1 504")


def test_requests_that_time_out_free_their_resources(overdue: dict[str, Any], http_client: httpx.Client) -> None:
    assert overdue
    assert wait_for(lambda: unfinished_requests(http_client) == 0)
    assert http_client.post(CHAT, json=chat_body()).status_code == 200


def test_a_refused_choice_ends_the_others(http_client: httpx.Client) -> None:
    """Six choices run, two wait, and the others are refused."""
    many = chat_body(n=12, max_tokens=1000, logit_bias={"2": -100, "3": -100})
    error = http_client.post(CHAT, json=many)
    refused(error, 503)
    assert wait_for(lambda: unfinished_requests(http_client) == 0)


def test_a_batch_with_a_refused_prompt_is_not_to_be_retried(http_client: httpx.Client) -> None:
    """Only some of the prompts run or wait."""
    endless = {"text": ["On and on."] * 8, "sampling_params": {"max_new_tokens": 1000, "ignore_eos": True}}
    error = http_client.post("/generate", json=endless)
    refused(error, 503)
    assert "retry-after" not in error.headers
    assert wait_for(lambda: unfinished_requests(http_client) == 0)
