"""Two workers behind one port: they answer like a single worker, and a killed part loses only its own requests."""

import base64
import contextlib
import io
import json
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import soundfile
from server import (
    SECONDS,
    Client,
    assert_same_sound,
    clip,
    command_of,
    deltas_of,
    listening_addresses,
    message_of,
    pcm_of,
    samples_of,
    slowed,
    wait_for,
    wav,
)
from server.fleet import Fleet, SharedFleet

CHAT = "/v1/chat/completions"
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello."}]
LONG: dict[str, Any] = {"messages": HELLO, "max_tokens": 150, "logit_bias": {"2": -100, "3": -100}}
LONGER = {**LONG, "max_tokens": 250}
"""Runs, slowed, until a worker whose keeper hangs is killed."""

# The guide's payloads, with a seed.
_SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
_XARGS = {"mode": "text_audio", "phase": "text", "text_temperature": 0.6, "audio_temperature": 0.8, "audio_topk": 20}
_SPOKEN: dict[str, Any] = {
    "model": "speechlm-qwen3-8b",
    "messages": [_SYSTEM, {"role": "user", "content": "Read this aloud in a calm voice."}],
    "max_tokens": 100,
    "temperature": 0.8,
    "top_k": 20,
    "seed": 7,
    "vllm_xargs": _XARGS,
}
_CLIP = {"type": "input_audio", "input_audio": {"data": wav(clip(1, 2.0)), "format": "wav"}}
GUIDES: dict[str, dict[str, Any]] = {
    "text": {
        "model": "speechlm-qwen3-8b",
        "messages": [_SYSTEM, {"role": "user", "content": "What is machine learning?"}],
        "max_tokens": 200,
        "temperature": 0.6,
        "top_k": 20,
        "stop_token_ids": [3],
        "seed": 5,
    },
    "text and audio": _SPOKEN,
    "guided": {**_SPOKEN, "vllm_xargs": {**_XARGS, "cfg": 3.0}},
    "audio question": {
        "model": "speechlm-qwen3-8b",
        "messages": [
            {"role": "system", "content": "You are an audio understanding assistant."},
            {"role": "user", "content": [_CLIP]},
            {"role": "user", "content": "What sound is in this audio?"},
        ],
        "max_tokens": 200,
        "temperature": 0.6,
        "seed": 6,
        "stop_token_ids": [3],
    },
}

_LAMP: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "switch_lamp",
        "parameters": {
            "type": "object",
            "properties": {"on": {"type": "boolean"}, "room": {"enum": ["hall", "attic"]}},
            "required": ["on", "room"],
            "additionalProperties": False,
        },
    },
}
_CALL = {"id": "call_1", "type": "function", "function": {"name": "switch_lamp", "arguments": '{"on": true}'}}
_FUNCTIONS: dict[str, Any] = {"tools": [_LAMP], "max_tokens": 60, "seed": 8}
REQUESTS: dict[str, dict[str, Any]] = {
    **GUIDES,
    "call": {**_FUNCTIONS, "messages": HELLO, "tool_choice": "required", "parallel_tool_calls": False},
    "result of a call": {
        **_FUNCTIONS,
        "messages": [
            *HELLO,
            {"role": "assistant", "content": None, "tool_calls": [_CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "It is on."},
        ],
        "tool_choice": "none",
    },
    "JSON by a schema": {
        "messages": HELLO,
        "max_tokens": 60,
        "seed": 8,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "lamp", "strict": True, "schema": _LAMP["function"]["parameters"]},
        },
    },
}


@pytest.fixture(scope="module")
def shared_fleet(served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedFleet]:
    with SharedFleet(2, served_checkpoint, tmp_path_factory, is_copying=True) as shared:
        yield shared


@pytest.fixture
def fleet(shared_fleet: SharedFleet) -> Fleet:
    return shared_fleet.running()


# Answers like those of a single worker


def masked(answer: httpx.Response) -> tuple[int, dict[str, str], str]:
    """Return status, headers and body without sound, random ids and times."""
    body = "" if is_sound(answer) else answer.text
    text = re.sub(r"(chatcmpl|speech|transcription|call)[-_][0-9a-f]{24,32}", r"\1-ID", body)
    text = re.sub(r'audio-[0-9a-f]{8}-|"(created|expires_at)":\d+|"data":"[^"]*"', "", text)
    headers = {
        name: value
        for name, value in answer.headers.items()
        if name not in ("date", "server", "x-request-id", "content-length")
    }
    return answer.status_code, headers, text


def sound_of(answer: httpx.Response) -> np.ndarray:
    """Return the samples of an answer; none if it is only text."""
    if is_sound(answer):
        return soundfile.read(io.BytesIO(answer.content), dtype="float32")[0]
    message = message_of(answer.json())
    return samples_of(message) if message.get("audio") else np.empty(0, np.float32)


def is_sound(answer: httpx.Response) -> bool:
    return answer.headers["content-type"].startswith("audio/")


def post_to(url: str, path: str, **request: Any) -> httpx.Response:
    return httpx.post(f"{url}{path}", timeout=SECONDS, trust_env=False, verify=False, **request)


@pytest.mark.parametrize("name", REQUESTS)
def test_an_answer_equals_a_workers_own_except_for_rounded_samples(name: str, fleet: Fleet) -> None:
    body = {**REQUESTS[name], "speechlm": {"return_ids": True}}
    for url in fleet.workers:  # so that both have the same cached tokens
        post_to(url, CHAT, json=body)
    direct = post_to(fleet.workers[0], CHAT, json=body)
    via_fleet = [post_to(fleet.server.url, CHAT, json=body) for _ in fleet.workers]
    assert direct.status_code == 200
    for found in via_fleet:
        assert masked(found) == masked(direct)
        assert_same_sound(sound_of(found), sound_of(direct))


@pytest.mark.parametrize("name", REQUESTS)
def test_a_stream_equals_a_workers_own(name: str, fleet: Fleet) -> None:
    body = {**REQUESTS[name], "sample_rate": 16_000}
    with Client(fleet.workers[0]) as worker:
        direct = worker.stream(body)
    via_fleet = fleet.client.stream(body)
    assert content_of(via_fleet) == content_of(direct)
    assert_same_sound(pcm_of(via_fleet), pcm_of(direct))
    assert (name == "call") == (content_of(direct)[1] != "")
    assert ("audio" in name or name == "guided") == (len(pcm_of(direct)) > 0 or name == "audio question")


def content_of(chunks: list[Any]) -> tuple[str, str, str]:
    """Return a stream's text, tool call arguments and finish reason; the number of chunks depends on timing."""
    deltas = deltas_of(chunks)
    text = "".join(delta.get("content") or "" for delta in deltas)
    arguments = "".join(
        call["function"].get("arguments", "") for delta in deltas for call in delta.get("tool_calls", ())
    )
    return text, arguments, chunks[-1]["choices"][0]["finish_reason"]


@pytest.mark.parametrize(
    ("path", "request_of"),
    [
        (
            "/v1/audio/speech",
            {"json": {"model": "speechlm", "input": "Hello.", "response_format": "wav", "speechlm": {"seed": 3}}},
        ),
        (
            "/v1/audio/transcriptions",
            {"files": {"file": ("a.wav", base64.b64decode(wav(clip(2, 1.0))))}, "data": {"temperature": "0"}},
        ),
        (
            "/generate",
            {"json": {"input_ids": [1, 300, 301], "sampling_params": {"max_new_tokens": 5, "temperature": 0}}},
        ),
        (CHAT, {"json": {"messages": HELLO, "speechlm": {"cfg": 99}}}),
        (CHAT, {"content": b"not JSON", "headers": {"content-type": "application/json"}}),
    ],
)
def test_every_route_answers_like_a_worker(path: str, request_of: dict[str, Any], fleet: Fleet) -> None:
    direct, via_fleet = (post_to(url, path, **request_of) for url in (fleet.workers[0], fleet.server.url))
    if path == "/generate":
        assert direct.json()["output_ids"] == via_fleet.json()["output_ids"]
    else:
        assert masked(via_fleet) == masked(direct)
    if path == "/v1/audio/speech":
        assert_same_sound(sound_of(via_fleet), sound_of(direct))


def test_a_fleet_listens_only_on_the_loopback(fleet: Fleet) -> None:
    assert listening_addresses(fleet.server.process.pid) == {"127.0.0.1"}


def test_a_clip_of_ten_megabytes_is_forwarded(fleet: Fleet) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.tile(clip(4, 21.0), 3)[:, None].repeat(2, axis=1), 48_000, format="WAV", subtype="FLOAT")
    data = base64.b64encode(file.getvalue()).decode()
    assert len(data) > 10_000_000
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    body = {"messages": [{"role": "user", "content": [part]}], "max_tokens": 20, "temperature": 0}
    for url in fleet.workers:
        post_to(url, CHAT, json=body)
    direct, via_fleet = (post_to(url, CHAT, json=body) for url in (fleet.workers[1], fleet.server.url))
    assert masked(via_fleet) == masked(direct)
    assert via_fleet.status_code == 200


def test_requests_alternate_between_workers(fleet: Fleet) -> None:
    before = [replies(url) for url in fleet.workers]
    for _ in range(6):
        fleet.client.chat({"messages": HELLO, "max_tokens": 2})
    for _ in range(4):
        post_to(fleet.server.url, "/v1/audio/speech", json={"model": "speechlm", "input": "Hi."}).raise_for_status()
    grown = [replies(url) - then for url, then in zip(fleet.workers, before, strict=True)]
    assert grown == [5, 5]


def replies(url: str) -> float:
    with Client(url) as client:
        return sum(value for (name, _), value in client.metrics().items() if name == "speechlm_replies_total")


def test_earlier_audio_is_found_whichever_worker_generated_it(fleet: Fleet) -> None:
    for _ in range(2):
        spoken = fleet.client.chat({**_SPOKEN, "vllm_xargs": {**_XARGS}})
        audio = {"id": spoken["choices"][0]["message"]["audio"]["id"]}
        more = [*_SPOKEN["messages"], {"role": "assistant", "audio": audio}, *HELLO]
        for _ in range(3):
            assert fleet.client.chat({"messages": more, "max_tokens": 4})["usage"]["completion_tokens"] > 0


# Killed parts


class StreamedAnswer:
    """A streamed answer that is being received."""

    def __init__(self, fleet: Fleet, body: dict[str, Any] = LONG, path: str = CHAT) -> None:
        self.started = threading.Event()
        self.text = ""
        self._request = (fleet.server.url, path, {**body, "stream": True})
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        assert self.started.wait(SECONDS)

    def _read(self) -> None:
        url, path, body = self._request
        with httpx.stream(
            "POST", f"{url}{path}", json=body, timeout=SECONDS, trust_env=False, verify=False
        ) as response:
            for text in response.iter_text():
                self.text += text
                self.started.set()

    def end(self) -> str:
        """Wait for the end and return "whole" or "error"; fail if it is neither."""
        self._thread.join(SECONDS)
        events = [event for event in self.text.removesuffix("data: [DONE]\n\n").split("\n\n") if event]
        assert all(json.loads(event.removeprefix("data: ")) for event in events)
        if events[-1].startswith('data: {"error":'):
            assert '"type":"server_error"' in events[-1]
            return "error"
        assert self.text.endswith("data: [DONE]\n\n")
        assert '"finish_reason":"length"' in events[-1]
        return "whole"


@pytest.mark.parametrize(
    ("part", "number"),
    [("keeper", signal.SIGKILL), ("sglang::scheduler", signal.SIGKILL), ("keeper", signal.SIGSTOP)],
)
def test_a_worker_that_dies_or_hangs_fails_only_its_own_requests_and_is_restarted(
    part: str, number: signal.Signals, fleet: Fleet
) -> None:
    urls = fleet.workers
    victim, survivor = (fleet.part(url, "sglang::scheduler") for url in urls)
    body = LONGER if number == signal.SIGSTOP else LONG
    with ThreadPoolExecutor(2) as threads, slowed(victim):
        with slowed(survivor):
            whole = [threads.submit(post_to, fleet.server.url, CHAT, json=body) for _ in urls]
            streams = [StreamedAnswer(fleet, body) for _ in urls]
            assert wait_for(lambda: all(running_in(url) == 2 for url in urls))
        (fleet.keeper(urls[0]) if part == "keeper" else victim).send_signal(number)
        answers = [future.result() for future in whole]
        ends = [stream.end() for stream in streams]
    failed = [answer for answer in answers if answer.status_code != 200]
    assert len(failed) + ends.count("error") == 2
    assert all(answer.status_code in (502, 503) for answer in failed)
    assert all(answer.json()["error"]["type"] == "server_error" for answer in failed)
    assert wait_for(lambda: urls[0] not in fleet.workers)
    assert wait_for(fleet.is_healthy)
    assert urls[1] in fleet.workers
    before = [replies(url) for url in fleet.workers]
    for _ in range(4):
        fleet.client.chat({"messages": HELLO, "max_tokens": 2})
    assert all(replies(url) > then for url, then in zip(fleet.workers, before, strict=True))


def running_in(url: str) -> float:
    with Client(url) as client:
        return sum(value for (name, _), value in client.metrics().items() if name == "speechlm_replies_running")


def test_a_killed_router_is_restarted_and_streams_past_it_continue(fleet: Fleet) -> None:
    speech = {"model": "speechlm", "input": "On.", "stream_format": "sse", "speechlm": {"audio_min_frames": 150}}
    schedulers = [fleet.part(url, "sglang::scheduler") for url in fleet.workers]
    router = fleet.router()
    past_router, through_router = StreamedAnswer(fleet, speech, "/v1/audio/speech"), StreamedAnswer(fleet)
    with slowed(*schedulers):
        router.kill()
        assert through_router.end() == "error"
    past_router._thread.join(SECONDS)
    assert '"type":"speech.audio.done"' in past_router.text
    assert wait_for(lambda: "The router ended" in fleet.server.output())
    # Until the router is back, the front chooses a worker itself.
    assert [fleet.client.http.post(CHAT, json={"messages": HELLO}).status_code for _ in range(4)] == [200] * 4
    assert wait_for(lambda: any("router_process" in command_of(process) for process in fleet.processes()))


def test_a_killed_launcher_leaves_no_process_file_or_shared_memory(fleet: Fleet) -> None:
    processes = fleet.processes()
    segments = {path for process in processes for path in re.findall(r"/dev/shm/\S+", maps_of(process))}
    # A fork has its parent's environment; Python's resource trackers are new processes with the right one.
    trackers = [process for process in processes if "multiprocessing.resource_tracker" in command_of(process)]
    folders = {Path(process.environ()["TMPDIR"]) for process in trackers}
    assert segments
    assert len(folders) == 2
    fleet.server.process.kill()
    _, alive = psutil.wait_procs(processes, timeout=SECONDS)
    assert alive == []
    assert wait_for(lambda: not any(Path(path).exists() for path in [*segments, *folders]))


def maps_of(process: psutil.Process) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process.pid}/maps").read_text()
    return ""
