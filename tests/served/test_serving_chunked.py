"""Prompts computed in small chunks, and no overlap between steps: the same ids."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import POOL
from server import BY_NAME, CASES, Case, Client, Judge, Server, open_request, serving, wait_for

CHUNK = 64
LONGER_THAN_A_CHUNK = [
    "audio question",
    "long prompt",
    "clip longer than 30 s",
    "clips in system and user turns",
    "spoken after history",
]


@pytest.fixture(scope="module")
def server(served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ("--chunked-prefill-size", str(CHUNK), "--disable-overlap-schedule", *POOL)
    with serving(served_checkpoint, tmp_path_factory.mktemp("chunked") / "log", *options) as running:
        yield running


@pytest.fixture(autouse=True)
def no_step_exceeds_the_chunk(server: Server) -> Iterator[None]:
    """After every test."""
    yield
    assert max(prefill_steps(server)) == CHUNK


def prefill_steps(server: Server, begin: int = 0) -> list[int]:
    """The positions of each prefill step, from a place in the log on."""
    return [int(number) for number in re.findall(r"Prefill batch.*#new-token: (\d+)", server.output()[begin:])]


def guided(name: str) -> Case:
    return Case(f"{name}, guided", replace(BY_NAME[name].request, speak=True, cfg=3.0))


def long_guided(text: str, length: int) -> Case:
    """A guided answer of a few frames to a prompt of about this length."""
    request = replace(BY_NAME["given text"].request, cfg=3.0, audio_max_frames=10)
    return Case(f"{length} bytes", replace(request, messages=[("user", [("text", (text * length)[:length])])]))


@pytest.mark.parametrize("case", [BY_NAME[name] for name in LONGER_THAN_A_CHUNK], ids=str)
def test_an_answer_alone_is_the_references(case: Case, client: Client, judge: Judge) -> None:
    client.clear_cache()
    judge.compare([case], [client.chat(case.body())])


@pytest.mark.parametrize("case", [guided(name) for name in LONGER_THAN_A_CHUNK], ids=str)
@pytest.mark.parametrize("cached", ["nothing", "pads", "everything"])
def test_a_guided_answer_is_the_references(case: Case, cached: str, client: Client, judge: Judge) -> None:
    client.clear_cache()
    if cached == "pads":
        client.chat(long_guided("Other words. ", 900).body())
    elif cached == "everything":
        client.chat(case.body())
    judge.compare([case], [client.chat(case.body())])


def test_a_guided_answer_that_is_left_between_two_chunks_leaves_nothing_behind(
    server: Server, client: Client, judge: Judge
) -> None:
    client.clear_cache()
    begin = len(server.output())
    with open_request(server.url, long_guided("Once upon a time. ", 3500).body()):
        assert wait_for(lambda: len(prefill_steps(server, begin)) >= 3)
    client.clear_cache()  # it waits until nothing runs; SGLang ends an idle scheduler that has lost memory
    judge.compare([guided("spoken")], [client.chat(guided("spoken").body())])


@pytest.mark.parametrize("first", [0, len(CASES) - 16])
def test_sixteen_answers_at_once_are_the_references(first: int, client: Client, judge: Judge) -> None:
    cases = CASES[first : first + 16]
    client.clear_cache()
    assert judge.compare(cases, client.chat_at_once([case.body() for case in cases])) > 2000


def test_sixteen_answers_at_once_stay_the_references_when_asked_again(client: Client, judge: Judge) -> None:
    cases = CASES[-16:]
    bodies = [case.body() for case in cases]
    client.chat_at_once(bodies)
    assert judge.compare(cases[::-1], client.chat_at_once(bodies[::-1])) > 2000


def test_prompts_were_computed_in_chunks(server: Server, client: Client) -> None:
    client.clear_cache()
    client.chat(BY_NAME["long prompt"].body())
    assert server.output().count(f"#new-token: {CHUNK},") >= 2
