"""Servers whose processes, temporary files and shared memory are recorded, to check that they leave nothing behind."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from sglang_speechlm.process import ExitStatus

from .client import CHAT
from .process import LAUNCHER, SECONDS, Server, command_of, wait_for

_POOL = ("--max-total-tokens", "16384")
TEXT = {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4}
LONG = {"messages": TEXT["messages"], "max_tokens": 400, "logit_bias": {"2": -100, "3": -100}}
ENDLESS = {**LONG, "max_tokens": 3900}
ENDLESS_SOUND = {
    **TEXT,
    "max_tokens": 3950,
    "speechlm": {"mode": "text_audio", "text": "On.", "audio_min_frames": 3900},
}


class ServerWithFullDisk(Server):
    """A server that writes its log to a full disk."""

    def __init__(self, model: Path, options: Sequence[str], environment: Mapping[str, str]) -> None:
        super().__init__(model, Path("/dev/full"), options, environment=environment)

    def output(self) -> str:
        return "(nothing could be written)"  # reading /dev/full never ends


@dataclass
class WatchedServer:
    """A server, its folder for temporary files, and its recorded processes and shared memory."""

    server: Server
    folder: Path
    processes: list[psutil.Process] = field(default_factory=list)
    shared_memory: set[str] = field(default_factory=set)

    def record_resources(self) -> None:
        """Record its processes and the shared memory that they use."""
        keeper = psutil.Process(self.server.process.pid)
        self.processes = [keeper, *keeper.children(recursive=True)]
        for process in self.processes:
            with contextlib.suppress(OSError):
                self.shared_memory |= set(re.findall(r"/dev/shm/\S+", Path(f"/proc/{process.pid}/maps").read_text()))

    def part(self, name: str) -> psutil.Process:
        """Return one of its recorded processes; of several with this name, the last."""
        if name == "keeper":
            return self.processes[0]
        if name == "http":
            return self.processes[1]
        return [process for process in self.processes if name in command_of(process)][-1]

    def wait_until_gone(self) -> int:
        """Wait for its end and return the exit status; fail if anything is left behind."""
        status = self.server.process.wait(SECONDS)
        _, alive = psutil.wait_procs(self.processes, timeout=SECONDS)
        assert alive == []
        assert wait_for(lambda: not any(self.folder.iterdir())), list(self.folder.iterdir())
        assert wait_for(lambda: not any(Path(path).exists() for path in self.shared_memory)), self.shared_memory
        port = int(self.server.url.rpartition(":")[2])
        socket.create_server(("127.0.0.1", port)).close()
        return status


@contextlib.contextmanager
def starting(
    model: Path,
    log: Path | None,
    *options: str,
    variables: Mapping[str, str] | None = None,
    launcher: str = LAUNCHER,
) -> Iterator[WatchedServer]:
    """Yield a starting server with its own folder for temporary files; if ``log`` is None, its disk is full."""
    folder = Path(tempfile.mkdtemp(prefix="life-", dir="/tmp"))  # short, because socket paths have a maximum length
    environment = {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder), **(variables or {})}
    options = (*_POOL, *options)
    server = (
        Server(model, log, options, environment=environment, launcher=launcher)
        if log
        else ServerWithFullDisk(model, options, environment)
    )
    try:
        yield WatchedServer(server, folder)
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)  # a server that failed its test may leave files behind


@contextlib.contextmanager
def started(
    model: Path, log: Path | None, *options: str, variables: Mapping[str, str] | None = None
) -> Iterator[WatchedServer]:
    """Yield a ready server whose resources are recorded."""
    with starting(model, log, *options, variables=variables) as watched:
        watched.server.wait_until_ready()
        watched.record_resources()
        assert watched.shared_memory
        assert any(watched.folder.iterdir())
        yield watched


def client_of(watched: WatchedServer) -> httpx.Client:
    return httpx.Client(base_url=watched.server.url, timeout=SECONDS, trust_env=False, verify=False)


@dataclass
class StreamedAnswer:
    """The received part of a streamed answer."""

    started: threading.Event = field(default_factory=threading.Event)
    received: str = ""
    is_complete: bool = False


@dataclass
class RunningRequests:
    """Running requests: their complete responses or exceptions, and a stream."""

    responses: list[Future[httpx.Response]]
    stream: StreamedAnswer


@contextlib.contextmanager
def requests_running(watched: WatchedServer, *bodies: dict[str, Any]) -> Iterator[RunningRequests]:
    """Send requests, and the first as a stream too; yield when all of them run."""
    stream = StreamedAnswer()

    def read() -> None:
        with (
            contextlib.suppress(httpx.HTTPError),
            client_of(watched) as client,
            client.stream("POST", CHAT, json={**bodies[0], "stream": True}) as response,
        ):
            for text in response.iter_text():
                stream.received += text
                stream.started.set()
            stream.is_complete = True

    with ThreadPoolExecutor(8) as threads, client_of(watched) as client:

        def running() -> int:
            return int(client.get("/v1/loads", params={"include": "core"}).json()["loads"][0]["num_running_reqs"])

        responses = [threads.submit(client.post, CHAT, json=body) for body in bodies]
        threads.submit(read)
        assert stream.started.wait(SECONDS)
        assert wait_for(lambda: running() > len(bodies))
        yield RunningRequests(responses, stream)


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Return the error of a 503 response."""
    assert response.status_code == 503, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def assert_part_failure_ends_server(watched: WatchedServer, part: str, number: signal.Signals) -> None:
    """Kill or stop a part during requests: they get an error, and nothing of the server is left behind."""
    with requests_running(watched, ENDLESS, ENDLESS_SOUND) as requests:
        watched.part(part).send_signal(number)
        if number == signal.SIGSTOP:
            with client_of(watched) as client:
                assert wait_for(lambda: client.get("/health").status_code == 503)
                assert "no heartbeat from the" in error_of(client.get("/health"))["message"]
        message = f"a process of this server {'hung' if number == signal.SIGSTOP else 'died'}"
        for response in requests.responses:
            assert error_of(response.result())["message"] == message
    *_, last = requests.stream.received.strip().split("\n\n")
    assert message in json.loads(last.removeprefix("data: "))["error"]["message"]
    assert watched.wait_until_gone() == ExitStatus.PART_DIED
