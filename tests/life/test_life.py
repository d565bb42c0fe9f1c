"""The lifetime of one server: it starts, drains, stops and fails, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from server import SECONDS, slowed, wait_for
from server.client import CHAT
from server.life import (
    ENDLESS,
    ENDLESS_SOUND,
    LONG,
    TEXT,
    assert_part_failure_ends_server,
    client_of,
    error_of,
    requests_running,
    started,
    starting,
)

from sglang_speechlm.process import ExitStatus

SPOKEN = {**TEXT, "max_tokens": 500, "speechlm": {"mode": "text_audio", "text": "Hi.", "audio_min_frames": 200}}


def assert_refused_before_work(response: httpx.Response, message: str) -> None:
    """The client may retry: no work was done for this request."""
    assert error_of(response)["message"] == message
    assert int(response.headers["retry-after"]) >= 1


def test_a_server_is_ready_after_a_full_warm_up_and_drains_on_sigint(served_checkpoint: Path, tmp_path: Path) -> None:
    """While it drains, running requests are finished and new ones are refused."""
    patient = ("--drain-timeout", str(SECONDS))
    with starting(served_checkpoint, tmp_path / "log", *patient) as watched, client_of(watched) as client:

        def request_if_listening(method: str, path: str, **more: Any) -> httpx.Response | None:
            with contextlib.suppress(httpx.TransportError):
                return client.request(method, path, **more)
            return None

        assert wait_for(lambda: request_if_listening("GET", "/health") is not None)
        statuses = []
        for _ in itertools.count():
            log = watched.server.output()
            health, answer = request_if_listening("GET", "/health"), request_if_listening("POST", CHAT, json=TEXT)
            assert health is not None
            assert answer is not None
            if health.status_code == 200 or answer.status_code == 200:
                break
            statuses.append(health.status_code)
            assert_refused_before_work(answer, "the server is warming up")
            assert "Uvicorn running" not in log
        assert set(statuses) == {503}
        assert client.get("/health").status_code == 200
        # The log line of a request is written after its answer is sent.
        assert wait_for(lambda: "kind=guided" in watched.server.output())
        log = watched.server.output()
        assert log.index("ready to roll") < log.index("Uvicorn running on http://127.0.0.1:")
        kinds = re.findall(r"kind=(\w+) heard=(\w+)", log)
        assert kinds[:3] == [("text", "False"), ("spoken", "False"), ("text", "True")]
        assert ("guided", "False") in kinds

        watched.record_resources()
        with requests_running(watched, LONG, SPOKEN) as requests:
            watched.server.process.send_signal(signal.SIGINT)
            assert wait_for(lambda: client.get("/health").status_code == 503)
            assert_refused_before_work(client.post(CHAT, json=TEXT), "the server is stopping")
            assert client.get("/v1/models").status_code == 200
            assert [response.result().status_code for response in requests.responses] == [200, 200]
            assert requests.responses[0].result().json()["usage"]["completion_tokens"] == LONG["max_tokens"]
        assert requests.stream.is_complete
        assert requests.stream.received.endswith("data: [DONE]\n\n")
        assert watched.wait_until_gone() == ExitStatus.STOPPED


def test_answers_beyond_the_drain_timeout_are_cut_off_with_an_error(served_checkpoint: Path, tmp_path: Path) -> None:
    with started(served_checkpoint, tmp_path / "log", "--drain-timeout", "1") as watched:
        with requests_running(watched, ENDLESS, ENDLESS_SOUND) as requests:
            watched.server.process.terminate()
            for response in requests.responses:
                assert "stopped before this answer was complete" in error_of(response.result())["message"]
        *_, last = requests.stream.received.strip().split("\n\n")
        assert "stopped" in json.loads(last.removeprefix("data: "))["error"]["message"]
        assert watched.wait_until_gone() == ExitStatus.CUT_OFF


def test_a_second_signal_ends_the_server_at_once(served_checkpoint: Path) -> None:
    """This holds even on a full disk, where no log line can be written."""
    with started(served_checkpoint, None) as watched:
        with requests_running(watched, ENDLESS) as requests:
            watched.server.process.terminate()
            with client_of(watched) as client:
                assert wait_for(lambda: client.get("/health").status_code == 503)
            watched.server.process.terminate()
            assert isinstance(requests.responses[0].exception(), httpx.TransportError)
        assert not requests.stream.is_complete
        assert watched.wait_until_gone() == ExitStatus.CUT_OFF


FAILING_PARTS = {
    signal.SIGKILL: ("keeper", "http", "sglang::detokenizer"),
    signal.SIGSTOP: ("keeper", "http", "sglang::scheduler"),
}


def assert_failure_ends_server(part: str, number: signal.Signals, model: Path, log: Path) -> None:
    """Start a server and kill or stop a part of it."""
    with started(model, log) as watched:
        if part not in ("keeper", "http"):
            assert_part_failure_ends_server(watched, part, number)
            return
        with requests_running(watched, ENDLESS) as requests, slowed(watched.part("sglang::scheduler")):
            watched.part(part).send_signal(number)
            failed = isinstance(requests.responses[0].exception(), httpx.TransportError)
            assert failed or error_of(requests.responses[0].result())["message"] == "a process of this server died"
        assert not requests.stream.is_complete or '"error":' in requests.stream.received
        assert watched.wait_until_gone() == (-signal.SIGKILL if part == "keeper" else ExitStatus.PART_DIED)


@pytest.fixture(scope="module")
def failures(
    served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[signal.Signals], dict[str, Future[None]]]:
    """Return what lets a part of each of three servers fail at once: a hang is noticed only after many seconds."""

    @cache
    def fail(number: signal.Signals) -> dict[str, Future[None]]:
        folder = tmp_path_factory.mktemp(number.name)
        with ThreadPoolExecutor() as threads:
            return {
                part: threads.submit(assert_failure_ends_server, part, number, served_checkpoint, folder / part)
                for part in FAILING_PARTS[number]
            }

    return fail


@pytest.mark.parametrize(
    ("number", "part"), [(number, part) for number in FAILING_PARTS for part in FAILING_PARTS[number]]
)
def test_a_part_that_is_killed_or_hangs_ends_all_others_and_its_requests_fail(
    number: signal.Signals, part: str, failures: Callable[[signal.Signals], dict[str, Future[None]]]
) -> None:
    failures(number)[part].result()


def test_a_failed_warm_up_ends_the_server(served_checkpoint: Path, tmp_path: Path) -> None:
    with starting(served_checkpoint, tmp_path / "log", "--request-timeout-secs", "0.001") as watched:
        assert wait_for(lambda: "Started server process" in watched.server.output())
        with contextlib.suppress(psutil.NoSuchProcess):
            watched.record_resources()
        assert watched.wait_until_gone() == ExitStatus.WARM_UP_FAILED
        assert "the text answer failed with 504" in watched.server.output()
        assert "Uvicorn running" not in watched.server.output()


def test_a_scheduler_that_dies_while_loading_ends_the_server(served_checkpoint: Path, tmp_path: Path) -> None:
    with starting(served_checkpoint, tmp_path / "log") as watched:
        assert wait_for(lambda: "Memory baseline taken" in watched.server.output())
        watched.record_resources()
        watched.part("sglang::scheduler").kill()
        assert watched.wait_until_gone() == ExitStatus.NOT_STARTED


@pytest.mark.parametrize("line", ["server_args=", "Load weight begin", "Application startup complete", "kind=text"])
def test_a_starting_server_can_be_stopped(line: str, served_checkpoint: Path, tmp_path: Path) -> None:
    with starting(served_checkpoint, tmp_path / "log") as watched:
        assert wait_for(lambda: line in watched.server.output())
        watched.record_resources()
        watched.server.process.terminate()
        assert watched.wait_until_gone() == ExitStatus.STOPPED


def test_a_server_can_be_stopped_before_the_application_handles_signals(
    served_checkpoint: Path, tmp_path: Path
) -> None:
    with starting(served_checkpoint, tmp_path / "log", launcher="tests.support.stopping_itself") as watched:
        assert watched.wait_until_gone() == ExitStatus.STOPPED
        assert "Waiting for application startup" in watched.server.output()
