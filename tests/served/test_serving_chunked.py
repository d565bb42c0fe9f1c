"""Prompts computed in small chunks, and no overlap between steps: the same ids."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import POOL
from server import BY_NAME, CASES, Case, Client, Judge, Server, serving

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


@pytest.mark.parametrize("case", [BY_NAME[name] for name in LONGER_THAN_A_CHUNK], ids=str)
def test_an_answer_alone_is_the_references(case: Case, client: Client, judge: Judge) -> None:
    client.forget()
    judge.compare([case], [client.chat(case.body())])


@pytest.mark.parametrize("first", [0, len(CASES) - 16])
def test_sixteen_answers_at_once_are_the_references(first: int, client: Client, judge: Judge) -> None:
    cases = CASES[first : first + 16]
    client.forget()
    assert judge.compare(cases, client.chat_at_once([case.body() for case in cases])) > 2000


def test_sixteen_answers_at_once_stay_the_references_when_asked_again(client: Client, judge: Judge) -> None:
    cases = CASES[-16:]
    bodies = [case.body() for case in cases]
    client.chat_at_once(bodies)
    assert judge.compare(cases[::-1], client.chat_at_once(bodies[::-1])) > 2000


def test_prompts_were_computed_in_chunks(server: Server, client: Client) -> None:
    client.forget()
    client.chat(BY_NAME["long prompt"].body())
    assert server.output().count(f"#new-token: {CHUNK},") >= 2
