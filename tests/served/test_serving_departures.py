"""Disconnected clients and a killed codec process: nothing keeps running, and the next answer is exact."""

import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
import pytest
from server import (
    BY_NAME,
    Case,
    Client,
    Judge,
    Server,
    command_of,
    message_of,
    open_request,
    samples_of,
    wait_for,
)

ENDLESS: dict[str, dict[str, Any]] = {
    "text": {"logit_bias": {"2": -100, "3": -100}},
    "audio": {"speechlm": {"mode": "text_audio", "text": "On and on.", "audio_min_frames": 3900}},
    "guided audio": {"speechlm": {"mode": "text_audio", "text": "On and on.", "audio_min_frames": 3900, "cfg": 3.0}},
    "text, then audio": {"speechlm": {"mode": "text_audio", "text_max_tokens": 40, "audio_min_frames": 3900}},
}
"""Answers of the maximum length: thousands of steps, far longer than a test waits."""


def body_of(kind: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"Never end: {kind}."}], **ENDLESS[kind]}


def resources_in_use(client: Client) -> dict[str, float]:
    """Return the nonzero metrics of running replies and stages, codec streams and codec slots."""
    return {
        name: value
        for (name, _), value in client.metrics().items()
        if name.endswith(("_running", "_codec_streams", "_codec_slots")) and value
    }


@pytest.fixture(autouse=True)
def assert_nothing_is_left(client: Client, judge: Judge) -> Iterator[None]:
    """After each test, the server is idle, the KV cache is free, and an answer is exact."""
    yield
    client.clear_cache()  # waits until the scheduler is idle
    assert wait_for(lambda: client.load()["num_used_tokens"] == 0)
    assert wait_for(lambda: not resources_in_use(client)), resources_in_use(client)
    case = BY_NAME["spoken answer to audio"]
    judge.compare([case], [client.chat(case.body())])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ENDLESS)
def test_clients_that_disconnect_during_generation_leave_nothing_behind(
    kind: str, stream: bool, server: Server, client: Client
) -> None:
    streamed = {"stream": True, "audio": {"format": "pcm16"}} if stream else {}
    connections = [open_request(server.url, {**body_of(kind), **streamed}) for _ in range(3)]
    in_the_codec = "speechlm_codec_slots" if "audio" in kind else "speechlm_stages_running"
    assert wait_for(lambda: client.metrics()[in_the_codec, ()] >= 1)
    for connection in connections:
        connection.close()


def test_clients_that_disconnect_at_random_moments_leave_nothing_behind(server: Server, client: Client) -> None:
    """Some leave before their request is complete, most while they wait or in either stage, while others are served."""
    moments = random.Random(5)

    def connect_and_disconnect(number: int) -> None:
        time.sleep(moments.random())
        sent = 1.0 if number % 4 else moments.random()
        with open_request(server.url, body_of([*ENDLESS][number % len(ENDLESS)]), sent=sent):
            time.sleep(moments.random() * 1.5)

    with ThreadPoolExecutor(24) as threads:
        futures = [threads.submit(connect_and_disconnect, number) for number in range(60)]
        client.chat_at_once([case.body() for case in (BY_NAME["spoken"], BY_NAME["audio question"])])
    for future in futures:
        future.result()


def codec_processes(server: Server) -> list[psutil.Process]:
    """Return the codec processes."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return [child for child in children if "sglang_speechlm.codec.worker.main" in command_of(child)]


def test_a_killed_codec_process_fails_only_its_own_answers(server: Server, client: Client, judge: Judge) -> None:
    with ThreadPoolExecutor(2) as threads:
        spoken = threads.submit(client.http.post, "/v1/chat/completions", json=body_of("audio"))
        written = threads.submit(client.chat, {**body_of("text"), "max_tokens": 300})
        assert wait_for(lambda: client.load()["num_running_reqs"] >= 2)
        assert wait_for(lambda: client.metrics()["speechlm_codec_slots", ()] >= 1)
        (codec,) = codec_processes(server)
        codec.kill()
        refused = spoken.result()
        assert written.result()["usage"]["completion_tokens"] == 300
    assert refused.status_code == 503
    assert "Retry-After" not in refused.headers  # a retry would generate the text and frames again
    assert "codec process" in refused.json()["error"]["message"]

    assert wait_for(lambda: client.http.get("/health").status_code == 200)
    case: Case = BY_NAME["spoken"]
    response = client.chat(case.body())
    judge.compare([case], [response])
    message = message_of(response)
    expected = judge.reference.audio(np.array(message["speechlm"]["codes"]))
    np.testing.assert_allclose(samples_of(message), np.clip(expected, -1, 1), rtol=0, atol=1e-4)
    (successor,) = codec_processes(server)
    assert successor.pid != codec.pid


@pytest.mark.parametrize("rid", ["mine", "HEALTH_CHECK_mine", "a_1", "both"])
def test_a_stage_is_aborted_by_the_id_from_its_client(rid: str, client: Client) -> None:
    params: dict[str, Any] = {"max_new_tokens": 3000, "ignore_eos": True}
    endless: dict[str, Any] = {"text": "On and on.", "rid": rid, "sampling_params": params}
    if rid == "a_1":  # the second of several
        endless |= {"text": ["Once.", "On and on."], "rid": "a", "sampling_params": [{"max_new_tokens": 1}, params]}
    if rid == "both":
        params["n"] = 2
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(client.http.post, "/generate", json=endless)
        assert wait_for(lambda: client.load()["num_running_reqs"] == params.get("n", 1))
        duplicate = client.http.post("/generate", json=endless)
        client.http.post("/abort_request", json={"rid": rid}).raise_for_status()
        answers = running.result().json()
    assert duplicate.status_code == 400
    assert duplicate.json()["error"]["param"] == "rid"
    for answer in answers[-params.get("n", 1) :] if isinstance(answers, list) else [answers]:
        assert answer["meta_info"]["id"] == rid
        assert answer["meta_info"]["finish_reason"]["type"] == "abort"


def test_choices_have_the_id_from_their_client(client: Client) -> None:
    params = {"max_new_tokens": 2, "n": 2}
    answers = client.http.post("/generate", json={"text": "On.", "rid": "mine", "sampling_params": params}).json()
    assert [answer["meta_info"]["id"] for answer in answers] == ["mine", "mine"]


def test_each_of_several_prompts_has_its_own_number_of_choices(client: Client) -> None:
    params = [{"max_new_tokens": 1, "n": 2}, {"max_new_tokens": 3, "ignore_eos": True}]
    body = {"text": ["On.", "Off."], "rid": "mine", "sampling_params": params}
    metas = [answer["meta_info"] for answer in client.http.post("/generate", json=body).json()]
    assert [(meta["id"], meta["completion_tokens"]) for meta in metas] == [("mine_0", 1), ("mine_0", 1), ("mine_1", 3)]


def test_aborting_a_stage_ends_no_other(client: Client, judge: Judge) -> None:
    """SGLang would abort all stages whose ids begin with this one."""
    case = BY_NAME["audio_min_frames"]
    endless = {"text": "On and on.", "rid": "c", "stream": True, "sampling_params": {"max_new_tokens": 3000}}
    with client.http.stream("POST", "/v1/chat/completions", json={**case.body(), "stream": True}) as response:
        lines = response.iter_lines()
        next(lines)
        with client.http.stream("POST", "/generate", json=endless) as other:
            next(other.iter_lines())
        client.http.post("/abort_request", json={"rid": "c"})
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    (finished,) = [chunk for chunk in chunks if chunk["choices"] and chunk["choices"][0]["finish_reason"]]
    assert finished["choices"][0]["finish_reason"] == judge.answer(case).end
    assert finished["choices"][0]["delta"]["speechlm"]["text_ids"] == judge.answer(case).text_ids
