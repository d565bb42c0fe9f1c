"""The life of one server: ready, drained, killed in every part; and nothing is left of it."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from server import SECONDS, Server, command_of, wait_for

from sglang_speechlm.worker import ExitStatus

POOL = ("--max-total-tokens", "16384")
CHAT = "/v1/chat/completions"
TEXT = {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4}
SPOKEN = {**TEXT, "max_tokens": 1200, "speechlm": {"mode": "text_audio", "text": "Hi.", "audio_min_frames": 1000}}
LONG = {"messages": TEXT["messages"], "max_tokens": 2500, "logit_bias": {"2": -100, "3": -100}}
ENDLESS = {**LONG, "max_tokens": 3900}
ENDLESS_SOUND = {
    **TEXT,
    "max_tokens": 3950,
    "speechlm": {"mode": "text_audio", "text": "On.", "audio_min_frames": 3900},
}


class Mute(Server):
    """Writes its log to a full disk."""

    def __init__(self, model: Path, options: Sequence[str], environment: Mapping[str, str]) -> None:
        super().__init__(model, Path("/dev/full"), options, environment=environment)

    def output(self) -> str:
        return "(nothing could be written)"  # reading the device would not end


@dataclass
class Life:
    """A server, what it has made by now, and what it answered to requests that were under way."""

    server: Server
    folder: Path
    family: list[psutil.Process] = field(default_factory=list)
    segments: set[str] = field(default_factory=set)

    def look(self) -> None:
        """Take note of its processes and of the shared memory that they use."""
        keeper = psutil.Process(self.server.process.pid)
        self.family = [keeper, *keeper.children(recursive=True)]
        for process in self.family:
            with contextlib.suppress(OSError):
                self.segments |= set(re.findall(r"/dev/shm/\S+", Path(f"/proc/{process.pid}/maps").read_text()))

    def part(self, name: str) -> psutil.Process:
        """One of its processes, the last one of that name."""
        if name == "keeper":
            return self.family[0]
        if name == "http":
            return self.family[1]
        return [process for process in self.family if name in command_of(process)][-1]

    def ended(self) -> int:
        """Its exit status; fails if anything is left of it."""
        status = self.server.process.wait(SECONDS)
        _, alive = psutil.wait_procs(self.family, timeout=SECONDS)
        assert alive == []
        assert wait_for(lambda: not any(self.folder.iterdir())), list(self.folder.iterdir())
        assert wait_for(lambda: not any(Path(path).exists() for path in self.segments)), self.segments
        port = int(self.server.url.rpartition(":")[2])
        socket.create_server(("127.0.0.1", port)).close()
        return status


@contextlib.contextmanager
def living(model: Path, log: Path | None, *options: str, variables: Mapping[str, str] | None = None) -> Iterator[Life]:
    """A server that is being started, with a folder for temporary files of its own. Without a log its disk is full."""
    folder = Path(tempfile.mkdtemp(prefix="life-", dir="/tmp"))  # short: the names of sockets are bounded
    environment = {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder), **(variables or {})}
    options = (*POOL, *options)
    server = Server(model, log, options, environment=environment) if log else Mute(model, options, environment)
    try:
        yield Life(server, folder)
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)  # of a server that failed its test, something may be left


@contextlib.contextmanager
def ready(model: Path, log: Path | None, *options: str, variables: Mapping[str, str] | None = None) -> Iterator[Life]:
    """A server that is ready."""
    with living(model, log, *options, variables=variables) as life:
        life.server.wait_until_ready()
        life.look()
        assert life.segments
        assert any(life.folder.iterdir())
        yield life


def http_of(life: Life) -> httpx.Client:
    return httpx.Client(base_url=life.server.url, timeout=SECONDS, trust_env=False)


@dataclass
class Streamed:
    """What came of a streamed answer."""

    begun: threading.Event = field(default_factory=threading.Event)
    received: str = ""
    is_whole: bool = False


@dataclass
class Asked:
    """Requests that are under way: whole answers (or what was raised), and a stream."""

    whole: list[Future[httpx.Response]]
    stream: Streamed


@contextlib.contextmanager
def asking(life: Life, *bodies: dict[str, Any]) -> Iterator[Asked]:
    """Ask for whole answers and for a stream of the first, all of which are being made when this is entered."""
    stream = Streamed()

    def read() -> None:
        with (
            contextlib.suppress(httpx.HTTPError),
            http_of(life) as client,
            client.stream("POST", CHAT, json={**bodies[0], "stream": True}) as response,
        ):
            for text in response.iter_text():
                stream.received += text
                stream.begun.set()
            stream.is_whole = True

    def running() -> int:
        with http_of(life) as client:
            return int(client.get("/v1/loads", params={"include": "core"}).json()["loads"][0]["num_running_reqs"])

    with ThreadPoolExecutor(8) as threads, http_of(life) as client:
        whole = [threads.submit(client.post, CHAT, json=body) for body in bodies]
        threads.submit(read)
        assert stream.begun.wait(SECONDS)
        assert wait_for(lambda: running() > len(bodies))
        yield Asked(whole, stream)


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Of an answer that failed through no fault of the request."""
    assert response.status_code == 503, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def assert_not_begun(response: httpx.Response, message: str) -> None:
    """It may be asked again without anything being made twice."""
    assert error_of(response)["message"] == message
    assert int(response.headers["retry-after"]) >= 1


def test_it_is_ready_when_all_kinds_of_answers_have_worked(served_checkpoint: Path, tmp_path: Path) -> None:
    """And then it drains: what runs is finished, what comes is refused."""
    with living(served_checkpoint, tmp_path / "log") as life, http_of(life) as client:

        def early(method: str, path: str, **more: Any) -> httpx.Response | None:
            with contextlib.suppress(httpx.TransportError):
                return client.request(method, path, **more)
            return None

        assert wait_for(lambda: early("GET", "/health") is not None)
        before = []
        for _ in itertools.count():
            log = life.server.output()
            health, answer = early("GET", "/health"), early("POST", CHAT, json=TEXT)
            assert health is not None
            assert answer is not None
            if health.status_code == 200 or answer.status_code == 200:
                break
            before.append(health.status_code)
            assert_not_begun(answer, "the server is warming up")
            assert "Uvicorn running" not in log
        assert set(before) == {503}
        assert client.get("/health").status_code == 200
        # A request's line is written after its answer is sent.
        assert wait_for(lambda: "kind=guided" in life.server.output())
        log = life.server.output()
        assert log.index("ready to roll") < log.index("Uvicorn running on http://127.0.0.1:")
        kinds = re.findall(r"kind=(\w+) heard=(\w+)", log)
        assert kinds[:3] == [("text", "False"), ("spoken", "False"), ("text", "True")]
        assert ("guided", "False") in kinds

        life.look()
        with asking(life, LONG, SPOKEN) as asked:
            life.server.process.send_signal(signal.SIGINT)
            assert wait_for(lambda: client.get("/health").status_code == 503)
            assert_not_begun(client.post(CHAT, json=TEXT), "the server is stopping")
            assert client.get("/v1/models").status_code == 200
            assert [each.result().status_code for each in asked.whole] == [200, 200]
            assert asked.whole[0].result().json()["usage"]["completion_tokens"] == 2500
        assert asked.stream.is_whole
        assert asked.stream.received.endswith("data: [DONE]\n\n")
        assert life.ended() == ExitStatus.STOPPED


def test_answers_that_take_too_long_are_cut_off_with_an_error(served_checkpoint: Path, tmp_path: Path) -> None:
    with ready(served_checkpoint, tmp_path / "log", "--drain-timeout", "1") as life:
        with asking(life, ENDLESS, ENDLESS_SOUND) as asked:
            life.server.process.terminate()
            for each in asked.whole:
                assert "stopped before this answer was complete" in error_of(each.result())["message"]
        *_, last = asked.stream.received.strip().split("\n\n")
        assert "stopped" in json.loads(last.removeprefix("data: "))["error"]["message"]
        assert life.ended() == ExitStatus.CUT_OFF


def test_a_second_signal_ends_it_at_once(served_checkpoint: Path) -> None:
    """On a full disk, moreover, where no line of the log can be written."""
    with ready(served_checkpoint, None) as life:
        with asking(life, ENDLESS) as asked:
            life.server.process.terminate()
            with http_of(life) as client:
                assert wait_for(lambda: client.get("/health").status_code == 503)
            life.server.process.terminate()
            assert isinstance(asked.whole[0].exception(), httpx.TransportError)
        assert not asked.stream.is_whole
        assert life.ended() == ExitStatus.CUT_OFF


@pytest.mark.parametrize("part", ["keeper", "http"])
def test_a_part_that_is_killed_takes_all_others_with_it(part: str, served_checkpoint: Path, tmp_path: Path) -> None:
    with ready(served_checkpoint, tmp_path / "log") as life:
        with asking(life, ENDLESS) as asked:
            life.part(part).kill()
            assert isinstance(asked.whole[0].exception(), httpx.TransportError)
        assert not asked.stream.is_whole
        assert life.ended() == (-signal.SIGKILL if part == "keeper" else ExitStatus.PART_DIED)


@pytest.mark.parametrize("part", ["scheduler", "detokenizer"])
def test_requests_in_a_server_whose_part_is_killed_get_an_error(
    part: str, served_checkpoint: Path, tmp_path: Path
) -> None:
    """One of two ranks, in the scheduler's case."""
    ranks = ("--tensor-parallel-size", "2") if part == "scheduler" else ()
    variables = {"SGLANG_CPU_OMP_THREADS_BIND": "0|1"} if ranks else None
    with ready(served_checkpoint, tmp_path / "log", *ranks, variables=variables) as life:
        with asking(life, ENDLESS, ENDLESS_SOUND) as asked:
            life.part(f"sglang::{part}").kill()
            for each in asked.whole:
                assert error_of(each.result())["message"] == "a process of this server died"
        *_, last = asked.stream.received.strip().split("\n\n")
        assert "a process of this server died" in json.loads(last.removeprefix("data: "))["error"]["message"]
        assert life.ended() == ExitStatus.PART_DIED


def test_a_warm_up_that_fails_ends_it(served_checkpoint: Path, tmp_path: Path) -> None:
    with living(served_checkpoint, tmp_path / "log", "--request-timeout-secs", "0.001") as life:
        assert wait_for(lambda: "Started server process" in life.server.output())
        with contextlib.suppress(psutil.NoSuchProcess):
            life.look()
        assert life.ended() == ExitStatus.WARM_UP_FAILED
        assert "the text answer failed with 504" in life.server.output()
        assert "Uvicorn running" not in life.server.output()


def test_a_scheduler_that_dies_while_it_loads_ends_it(served_checkpoint: Path, tmp_path: Path) -> None:
    with living(served_checkpoint, tmp_path / "log") as life:
        assert wait_for(lambda: "Init torch distributed begin" in life.server.output())
        life.look()
        life.part("sglang::scheduler").kill()
        assert life.ended() == ExitStatus.NOT_STARTED


def test_it_can_be_told_to_stop_while_it_loads(served_checkpoint: Path, tmp_path: Path) -> None:
    with living(served_checkpoint, tmp_path / "log") as life:
        assert wait_for(lambda: "server_args=" in life.server.output())
        life.look()
        time.sleep(1)
        life.server.process.terminate()
        assert life.ended() == ExitStatus.STOPPED
