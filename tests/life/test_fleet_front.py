"""The front, with one external server behind it."""

import contextlib
import re
import resource
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from subprocess import run
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from server import SECONDS, Client, Server, command_of, launch, open_request, raw_answer, raw_status, slowed, wait_for
from server.fleet import COPYING
from server.process import LAUNCHER

from sglang_speechlm.process import ExitStatus, free_port

CHAT = "/v1/chat/completions"
TEXT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4}
ENDLESS = {**TEXT, "max_tokens": 3900, "logit_bias": {"2": -100, "3": -100}}


class Front:
    """A launcher that starts no worker."""

    def __init__(self, *options: str, launcher: str = LAUNCHER) -> None:
        self.port = free_port()
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", timeout=SECONDS, trust_env=False, verify=False
        )
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (a pipe would fill up)
        self.process = launch(["--port", f"{self.port}", *options], self._log, launcher)

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.output()
        with contextlib.suppress(httpx.TransportError):
            return self.http.get("/health").status_code == 200
        return False

    def processes(self) -> list[psutil.Process]:
        return [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]

    def keeper_and_front(self) -> list[psutil.Process]:
        keeper = psutil.Process(self.process.pid)
        return [keeper, *keeper.children()[:1]]

    def output(self) -> str:
        """Wait for its end and return all that it has printed."""
        self.process.wait(SECONDS)
        self._log.seek(0)
        return self._log.read().decode()

    def has_vanished(self, processes: list[psutil.Process]) -> bool:
        _, alive = psutil.wait_procs(processes, timeout=SECONDS)
        socket.create_server(("127.0.0.1", self.port)).close()
        return not alive


@contextlib.contextmanager
def running_front(*options: str) -> Iterator[Front]:
    front = Front(*options)
    try:
        assert wait_for(front.is_ready)
        yield front
    finally:
        front.process.kill()
        front.process.wait()
        front.http.close()


@pytest.fixture(scope="module")
def front(server: Server) -> Iterator[Front]:
    """Start a front with a key only for /workers."""
    with running_front("--worker-urls", server.url, "--admin-api-key", "root") as started:
        yield started


def authorized(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


ROOT = authorized("root")


# Routes


@pytest.mark.parametrize("path", ["/", "/v1/models", "/model_info", "/openapi.json", "/v1/loads"])
def test_every_route_of_a_worker_is_available_at_the_front(path: str, front: Front, server: Server) -> None:
    from_front, from_server = (
        httpx.get(f"{base}{path}", trust_env=False, verify=False) for base in (str(front.http.base_url), server.url)
    )
    assert from_front.status_code == from_server.status_code == 200
    assert from_front.headers["content-type"] == from_server.headers["content-type"]


@pytest.mark.parametrize(
    "path", ["/health", "//health", "/health//", "/%68ealth", "/metrics", "/metrics/", "/metricsx"]
)
def test_a_route_of_the_front_accepts_the_same_methods_as_a_servers(path: str, front: Front, server: Server) -> None:
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        from_front, from_server = (raw_answer(url, method, path) for url in (str(front.http.base_url), server.url))
        assert (
            from_front[0]
            == from_server[0]
            == (404 if path == "/metricsx" else 200 if method in ("GET", "HEAD") else 405)
        ), method
        assert from_front[1].get("allow") == from_server[1].get("allow")


def test_routes_that_change_a_server_reject_get(front: Front, server: Server) -> None:
    for url in (str(front.http.base_url), server.url):
        for path in ("/flush_cache", "/abort_request"):
            status, headers, _ = raw_answer(url, "GET", path, "Authorization: Bearer root")
            assert (status, headers["allow"]) == (405, "POST")


def test_an_unknown_route_is_rejected_as_by_a_worker(front: Front, server: Server) -> None:
    from_front, from_server = (
        httpx.post(f"{base}/v1/nothing", trust_env=False, verify=False)
        for base in (str(front.http.base_url), server.url)
    )
    assert (from_front.status_code, from_front.content) == (from_server.status_code, from_server.content)
    assert from_front.status_code == 404


def test_the_front_is_ready_while_a_worker_is(front: Front) -> None:
    assert front.http.get("/health").status_code == 200
    readiness = front.http.get("/readiness").json()
    assert readiness == {"status": "ready", "healthy_workers": 1, "workers": 1}


def test_one_scrape_has_the_metrics_of_router_and_workers(front: Front, server: Server) -> None:
    front.http.post(CHAT, json=TEXT)
    page = front.http.get("/metrics").text
    families = list(text_string_to_metric_families(page))
    assert len({family.name for family in families}) == len(families)
    samples = [sample for family in families for sample in family.samples]
    of_workers = [sample for sample in samples if sample.name.startswith(("speechlm", "sglang"))]
    assert {sample.labels["worker"] for sample in of_workers} == {server.url}
    assert any(family.name.startswith("smg_") for family in families)


def test_a_command_for_workers_reaches_all_of_them(front: Front) -> None:
    assert wait_for(lambda: front.http.post("/flush_cache", headers=ROOT).status_code == 200)


# Requests


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "PUT"])
def test_no_request_target_leads_anywhere_but_to_a_worker(method: str, front: Front) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        host = f"127.0.0.1:{elsewhere.getsockname()[1]}"
        targets = [f"*@{host}/", f"@{host}/", f":@{host}/", f"http://{host}/", host, f"/\\{host}/", f"%40{host}/"]
        for target in targets:
            assert raw_status(str(front.http.base_url), method, target) == 400, target
        for target in (f"/@{host}/", f"//{host}/", f"/{host}/", f"/http://{host}/"):
            assert raw_status(str(front.http.base_url), method, target) == 404, target
        elsewhere.settimeout(0.2)
        with pytest.raises(TimeoutError):
            elsewhere.accept()


@pytest.mark.parametrize("header", ["content-type", "content-length", "authorization", "x-request-id", "host"])
def test_the_connection_header_removes_no_header(header: str, front: Front) -> None:
    headers = {"connection": f"close, {header}", "x-request-id": f"kept-{header}"}
    answer = front.http.post(CHAT, json=TEXT, headers=headers)
    assert (answer.status_code, answer.headers["x-request-id"]) == (200, f"kept-{header}")


def test_a_request_keeps_its_id_from_client_to_worker(front: Front, server: Server) -> None:
    assert front.http.post(CHAT, json=TEXT, headers={"x-request-id": "me-1"}).headers["x-request-id"] == "me-1"
    generated = front.http.post(CHAT, json=TEXT).headers["x-request-id"]
    # A log line is written after its answer is sent.
    assert wait_for(lambda: all(f"request_id={id} " in server.output() for id in ("me-1", generated)))


def test_a_trace_reaches_the_worker(front: Front, server: Server) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    answer = front.http.post(CHAT, json=TEXT, headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    assert answer.headers["x-request-id"] == trace
    assert wait_for(lambda: f"request_id={trace} " in server.output())


def test_an_incomplete_body_does_not_stop_the_front(front: Front) -> None:
    with socket.create_connection(("127.0.0.1", front.port)) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert front.http.post(CHAT, json=TEXT).status_code == 200


@pytest.mark.parametrize("path", [CHAT, "/v1/audio/transcriptions"])
def test_an_oversized_body_is_refused_before_it_arrives(path: str, front: Front) -> None:
    with socket.create_connection(("127.0.0.1", front.port), timeout=SECONDS) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {2**29 + 1}\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_chunked_body_is_forwarded(front: Front) -> None:
    pieces = iter([b'{"messages":[{"role":"user",', b'"content":"Hello."}],"max_tokens":4}'])
    answer = front.http.post(CHAT, content=pieces, headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text


def test_audio_ids_that_no_worker_knows_are_refused_by_name(front: Front) -> None:
    unknown_id = "audio-00000000-chatcmpl-1-0"
    messages = [TEXT["messages"][0], {"role": "assistant", "audio": {"id": unknown_id}}, TEXT["messages"][0]]
    answer = front.http.post(CHAT, json={"messages": messages})
    assert answer.status_code == 400
    assert unknown_id in answer.json()["error"]["message"]


ENDLESS_SPEECH = {"model": "speechlm", "input": "On.", "stream_format": "sse", "speechlm": {"audio_min_frames": 3900}}


@pytest.mark.parametrize(
    ("path", "body"), [(CHAT, ENDLESS), (CHAT, {**ENDLESS, "stream": True}), ("/v1/audio/speech", ENDLESS_SPEECH)]
)
def test_a_worker_notices_when_a_client_disconnects(
    path: str, body: dict[str, Any], front: Front, server: Server
) -> None:
    with Client(server.url) as direct:
        before = aborted_in(direct)
        connection = open_request(str(front.http.base_url), body, path)
        assert wait_for(lambda: running_in(direct) > 0)
        connection.close()
        assert wait_for(lambda: aborted_in(direct) == before + 1)


def aborted_in(client: Client) -> float:
    return sum(value for (_, labels), value in client.metrics().items() if ("finish_reason", "abort") in labels)


def running_in(client: Client) -> float:
    return sum(value for (name, _), value in client.metrics().items() if name == "speechlm_replies_running")


# Workers that join and leave


def test_workers_can_be_added_and_removed_while_the_front_runs(front: Front, server: Server) -> None:
    (worker,) = front.http.get("/workers", headers=ROOT).json()["workers"]
    assert worker["url"] == server.url
    assert front.http.delete(f"/workers/{worker['id']}", headers=ROOT).status_code == 202
    refused = front.http.post(CHAT, json=TEXT)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    page = front.http.post(CHAT, json=TEXT, headers={"origin": "http://localhost:3000"})
    assert page.status_code == 503
    assert "Retry-After" in page.headers["access-control-expose-headers"]
    assert refused.json()["error"]["type"] == "server_error"
    assert front.http.get("/health").status_code == 503
    assert front.http.post("/workers", json={"url": server.url}, headers=ROOT).status_code == 202
    assert wait_for(lambda: front.http.get("/health").status_code == 200)
    assert front.http.post(CHAT, json=TEXT).status_code == 200


def test_an_absent_worker_is_counted_but_receives_no_request(front: Front) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert front.http.post("/workers", json={"url": url}, headers=ROOT).status_code == 202
    assert front.http.get("/readiness").json()["workers"] == 2
    assert {front.http.post(CHAT, json=TEXT).status_code for _ in range(4)} == {200}
    (absent,) = (worker for worker in workers_of(front) if worker["url"] == url)
    assert not absent["is_healthy"]
    statuses = [front.http.delete(f"/workers/{absent['id']}", headers=ROOT).status_code for _ in range(2)]
    assert statuses == [202, 404]


def workers_of(front: Front) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = front.http.get("/workers", headers=ROOT).json()["workers"]
    return listed


def test_a_front_is_not_its_own_worker(front: Front) -> None:
    itself = str(front.http.base_url).rstrip("/")
    added = front.http.post("/workers", json={"url": itself}, headers=ROOT).json()
    assert not wait_for(
        lambda: any(worker["is_healthy"] for worker in workers_of(front) if worker["url"] == itself), seconds=3
    )
    assert {front.http.post(CHAT, json=TEXT).status_code for _ in range(4)} == {200}
    assert front.http.delete(f"/workers/{added['id']}", headers=ROOT).status_code == 202


@pytest.mark.parametrize(("body", "field"), [({}, "url"), ({"url": "a"}, "url"), ([], "url")])
def test_a_worker_without_a_url_is_refused(body: Any, field: str, front: Front) -> None:
    answer = front.http.post("/workers", json=body, headers=ROOT)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


# Hanging parts


def router_is_bypassed_and_replaced(server: Server) -> None:
    with running_front("--worker-urls", server.url) as front:
        router = router_of(front)
        router.suspend()
        assert wait_for(lambda: front.http.post(CHAT, json=TEXT).status_code == 200)
        assert wait_for(lambda: not router.is_running() or router.status() == psutil.STATUS_ZOMBIE)
        assert wait_for(lambda: any("router_process" in command_of(process) for process in front.processes()))
        assert front.http.post(CHAT, json=TEXT).status_code == 200
        assert front.http.get("/health").status_code == 200


def router_of(front: Front) -> psutil.Process:
    return next(process for process in front.processes() if "router_process" in command_of(process))


def worker_is_removed_until_it_answers_again(server: Server) -> None:
    """The worker is itself a front, whose keeper hangs too."""
    with (
        running_front("--worker-urls", server.url) as worker,
        running_front("--worker-urls", f"{worker.http.base_url}") as front,
    ):
        hung = worker.keeper_and_front()
        for process in hung:
            process.suspend()
        assert wait_for(lambda: front.http.get("/health").status_code == 503)
        assert front.http.get("/readiness").json() == {"status": "not ready", "healthy_workers": 0, "workers": 1}
        assert front.http.post(CHAT, json=TEXT).status_code == 503
        for process in hung:
            process.resume()
        assert wait_for(lambda: front.http.post(CHAT, json=TEXT).status_code == 200)


def fleet_is_ended(server: Server) -> None:
    with running_front("--worker-urls", server.url) as front:
        processes = front.processes()
        front.keeper_and_front()[1].suspend()
        assert front.process.wait(SECONDS) == ExitStatus.PART_DIED
        assert front.has_vanished(processes)


@pytest.fixture(scope="module")
def hangs(server: Server) -> dict[str, Future[None]]:
    """Let parts of several fronts hang at once: each hang is noticed only after many seconds."""
    with ThreadPoolExecutor() as threads:
        return {
            "router": threads.submit(router_is_bypassed_and_replaced, server),
            "worker": threads.submit(worker_is_removed_until_it_answers_again, server),
            "front": threads.submit(fleet_is_ended, server),
        }


def test_a_hanging_router_is_bypassed_and_replaced(hangs: dict[str, Future[None]]) -> None:
    hangs["router"].result()


def test_a_hanging_worker_is_removed_until_it_answers_again(hangs: dict[str, Future[None]]) -> None:
    hangs["worker"].result()


def test_a_hanging_front_ends_the_fleet(hangs: dict[str, Future[None]]) -> None:
    hangs["front"].result()


# Keys, stopping and failures


def test_the_front_checks_keys_and_its_workers_route_needs_the_admin_key(server: Server) -> None:
    with running_front("--worker-urls", server.url, "--api-key", "user", "--admin-api-key", "root") as front:
        assert front.http.get("/health").status_code == 200
        for path in ("/readiness", "/metrics", "/workers", "/v1/models"):
            assert front.http.get(path).status_code == 401
            assert front.http.options(path, headers={"access-control-request-method": "GET"}).status_code == 401
        assert front.http.post(CHAT, json=TEXT).status_code == 401
        assert front.http.post(CHAT, json=TEXT, headers=authorized("user")).status_code == 200
        assert front.http.get("/workers", headers=authorized("user")).status_code == 403
        assert front.http.get("/workers", headers=authorized("root")).status_code == 200
        # The router's own port accepts no commands from other programs on this machine.
        (router,) = (process for process in front.processes() if "router" in command_of(process))
        ports = [connection.laddr.port for connection in router.net_connections() if connection.status == "LISTEN"]
        answers = {
            httpx.get(f"http://127.0.0.1:{port}/workers", trust_env=False, verify=False).status_code for port in ports
        }
        assert 200 not in answers
        assert "root" not in " ".join(router.cmdline())


REMOTE_OR_BROWSER_HEADERS = [
    {"x-forwarded-for": "10.0.0.1"},
    {"via": "1.1 proxy"},
    {"host": "evil.example"},
    {"host": "evil.example:80"},
    {"origin": "http://localhost:1"},
    {"sec-fetch-site": "same-origin"},
]


def test_without_a_key_only_local_programs_change_workers(server: Server) -> None:
    with running_front("--worker-urls", server.url) as front:
        (worker,) = front.http.get("/workers").json()["workers"]
        for headers in REMOTE_OR_BROWSER_HEADERS:
            assert front.http.post("/workers", json={"url": "http://127.0.0.1:1"}, headers=headers).status_code == 403
            assert front.http.delete(f"/workers/{worker['id']}", headers=headers).status_code == 403
        assert front.http.get("/workers").json()["workers"] == [worker]
        added = front.http.post("/workers", json={"url": "http://127.0.0.1:1"})
        assert added.status_code == 202
        assert front.http.delete(f"/workers/{added.json()['id']}").status_code == 202


def test_cache_aware_routing_supports_speechlm_fields_and_earlier_audio(server: Server) -> None:
    with running_front("--worker-urls", server.url, "--routing", "cache_aware") as front:
        model = front.http.get("/v1/models").json()["data"][0]["id"]
        fields = {"mode": "text_audio", "text": "Hi.", "audio_max_frames": 12, "return_ids": True}
        spoken = front.http.post(CHAT, json={"model": model, **TEXT, "max_tokens": 60, "speechlm": fields})
        message = spoken.json()["choices"][0]["message"]
        assert message["content"] == "Hi."
        assert len(message["speechlm"]["codes"]) > 0
        earlier = {"role": "assistant", "audio": {"id": message["audio"]["id"]}}
        messages = [*TEXT["messages"], earlier, *TEXT["messages"]]
        assert front.http.post(CHAT, json={"model": model, "messages": messages, "max_tokens": 4}).status_code == 200


def test_cache_aware_routing_leaves_refusals_to_the_workers(server: Server) -> None:
    with running_front("--worker-urls", server.url, "--routing", "cache_aware") as front:
        for fields in ({"model": "tts-1"}, {"model": "bagpiper"}, {}, {"model": "nothing"}, {"temperature": 3}):
            from_front, from_server = (
                httpx.post(
                    f"{base}{CHAT}", json={**TEXT, "seed": 1, **fields}, trust_env=False, verify=False, timeout=SECONDS
                )
                for base in (front.http.base_url, server.url)
            )
            assert from_front.status_code == from_server.status_code, fields
            assert from_front.json().get("choices") == from_server.json().get("choices"), fields
            assert from_front.json().get("error") == from_server.json().get("error"), fields


def test_a_stopping_front_finishes_answers_and_accepts_no_new_ones(server: Server) -> None:
    patient = ("--drain-timeout", str(SECONDS))
    with running_front("--worker-urls", server.url, *patient) as front, ThreadPoolExecutor(1) as threads:
        processes = front.processes()
        with slowed(server.part("sglang::scheduler")), Client(server.url) as direct:
            body = {**ENDLESS, "max_tokens": 150}
            running = threads.submit(front.http.post, CHAT, json=body)
            assert wait_for(lambda: running_in(direct) > 0)
            front.process.send_signal(signal.SIGTERM)
            assert wait_for(lambda: front.http.post(CHAT, json=TEXT).status_code == 503)
        assert running.result().status_code == 200
        assert front.process.wait(SECONDS) == ExitStatus.STOPPED
        assert front.has_vanished(processes)


@pytest.mark.parametrize("twice", [False, True])
def test_answers_beyond_the_drain_timeout_are_cut_off_with_an_error(twice: bool, server: Server) -> None:
    options = () if twice else ("--drain-timeout", "1")
    with running_front("--worker-urls", server.url, *options) as front:
        started = threading.Event()
        received: list[str] = []

        def read() -> None:
            with front.http.stream("POST", CHAT, json={**ENDLESS, "stream": True}) as response:
                for text in response.iter_text():
                    received.append(text)
                    started.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert started.wait(SECONDS)
        front.process.send_signal(signal.SIGTERM)
        if twice:
            # Two signals in a row might be merged into one.
            assert wait_for(lambda: front.http.get("/health").status_code == 503)
            front.process.send_signal(signal.SIGTERM)
        assert front.process.wait(SECONDS) == ExitStatus.CUT_OFF
        reader.join(SECONDS)
        *_, error, done, _ = "".join(received).split("\n\n")
        assert re.match(r'data: \{"error":\{"message":"the server was stopped', error)
        assert done == "data: [DONE]"


def test_a_killed_launcher_leaves_nothing_behind(server: Server) -> None:
    with running_front("--worker-urls", server.url) as front:
        processes = front.processes()
        front.process.kill()
        assert front.has_vanished(processes)


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--dp", "2"], ExitStatus.BAD_OPTIONS, "--model-path"),
        (
            ["--worker-urls", "http://127.0.0.1:1", "--port", "1", "--host", "192.0.2.1"],
            ExitStatus.BAD_OPTIONS,
            "--host",
        ),
        (["--worker-urls", "http://127.0.0.1:1", "--port", "99999"], ExitStatus.BAD_OPTIONS, "--port"),
        (["--dp", "1", "--model-path", "/nowhere"], ExitStatus.BAD_OPTIONS, "worker"),
        (
            ["--worker-urls", "http://127.0.0.1:1", "--ssl-certfile", "none", "--ssl-keyfile", "none"],
            ExitStatus.BAD_OPTIONS,
            "--ssl-certfile",
        ),
    ],
)
def test_exit_statuses_tell_why_a_fleet_did_not_start(options: list[str], status: int, message: str) -> None:
    front = Front(*options, launcher=COPYING)
    assert front.process.wait(SECONDS) == status, front.output()
    assert message in front.output().lower()


def test_a_launcher_without_file_descriptors_reports_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sglang_speechlm.launch", "--worker-urls", "http://127.0.0.1:9"]
    few = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (8, 8))
    ended = run(command, capture_output=True, text=True, timeout=SECONDS, cwd=tmp_path, preexec_fn=few)
    assert ended.returncode == ExitStatus.FAILED
    assert ended.stderr.startswith("speechlm keeper: a system resource is exhausted: [Errno 24] Too many open files")
    assert "Traceback" not in ended.stderr
