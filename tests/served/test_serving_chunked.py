"""With chunked prefill and without the overlap schedule, a server generates the reference's ids."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from server import BY_NAME, CASES, Case, Client, Judge, Server, open_request, serving, wait_for
from shared import POOL

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
    options = ["--chunked-prefill-size", str(CHUNK), "--disable-overlap-schedule", *POOL]
    options += ["--prefill-decode-interval-min-bs", "1"]
    with serving(served_checkpoint, tmp_path_factory.mktemp("chunked") / "log", *options) as started:
        yield started


@pytest.fixture(autouse=True)
def no_step_exceeds_the_chunk(server: Server) -> Iterator[None]:
    """Check the prefill steps after each test."""
    yield
    assert max(prefill_steps(server)) == CHUNK


def prefill_steps(server: Server, begin: int = 0) -> list[int]:
    """Return the number of positions of each prefill step after offset ``begin`` of the log."""
    return [int(number) for number in re.findall(r"Prefill batch.*#new-token: (\d+)", server.output()[begin:])]


def guided(name: str) -> Case:
    return Case(f"{name}, guided", replace(BY_NAME[name].request, speak=True, cfg=3.0))


def long_guided(text: str, length: int) -> Case:
    """Return a case of a guided answer of a few frames to a prompt of about ``length`` bytes."""
    request = replace(BY_NAME["given text"].request, cfg=3.0, audio_max_frames=10)
    return Case(f"{length} bytes", replace(request, messages=[("user", [("text", (text * length)[:length])])]))


@pytest.mark.parametrize("case", [BY_NAME[name] for name in LONGER_THAN_A_CHUNK], ids=str)
def test_a_single_answer_equals_the_reference(case: Case, client: Client, judge: Judge) -> None:
    client.clear_cache()
    judge.compare([case], [client.chat(case.body())])


@pytest.mark.parametrize("case", [guided(name) for name in LONGER_THAN_A_CHUNK], ids=str)
@pytest.mark.parametrize("cached", ["nothing", "pads", "everything"])
def test_a_guided_answer_equals_the_reference(case: Case, cached: str, client: Client, judge: Judge) -> None:
    client.clear_cache()
    if cached == "pads":
        client.chat(long_guided("Other words. ", 900).body())
    elif cached == "everything":
        client.chat(case.body())
    judge.compare([case], [client.chat(case.body())])


def test_a_guided_answer_aborted_between_two_chunks_leaves_nothing_behind(
    server: Server, client: Client, judge: Judge
) -> None:
    client.clear_cache()
    begin = len(server.output())
    with open_request(server.url, long_guided("Once upon a time. ", 3500).body()):
        assert wait_for(lambda: len(prefill_steps(server, begin)) >= 3)
    client.clear_cache()  # waits until the scheduler is idle; SGLang then ends it if it has leaked memory
    judge.compare([guided("spoken")], [client.chat(guided("spoken").body())])


@pytest.mark.parametrize("first", [0, len(CASES) - 16])
def test_sixteen_concurrent_answers_equal_the_reference(first: int, client: Client, judge: Judge) -> None:
    cases = CASES[first : first + 16]
    client.clear_cache()
    assert judge.compare(cases, client.chat_at_once([case.body() for case in cases])) > 1000


def test_sixteen_repeated_concurrent_answers_equal_the_reference(client: Client, judge: Judge) -> None:
    cases = CASES[-16:]
    bodies = [case.body() for case in cases]
    client.chat_at_once(bodies)
    assert judge.compare(cases[::-1], client.chat_at_once(bodies[::-1])) > 1000


def test_prompts_are_computed_in_chunks(server: Server, client: Client) -> None:
    client.clear_cache()
    client.chat(BY_NAME["long prompt"].body())
    assert server.output().count(f"#new-token: {CHUNK},") >= 2
