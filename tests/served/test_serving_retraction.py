"""Retracted requests, which recompute their prefix, generate the reference's ids."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from reference import Part, Request
from server import CASES, Case, Client, Judge, Server, clip, serving, wait_for
from shared import POOL

CHUNK = 64
SMALL_POOL = (
    "--max-total-tokens", "640", "--schedule-conservativeness", "0.01", "--chunked-prefill-size", str(CHUNK),
    "--enable-metrics",
)  # fmt: skip
"""Half of what ``GROWING`` needs; all are admitted as if they would hardly grow. A guided prefix takes many chunks."""


def growing(number: int) -> Case:
    """Return a case with an answer of about 90 frames; some are guided and so take twice the space."""
    sound: list[Part] = [("audio", clip(number, 0.5))] if number % 3 == 0 else []
    request = Request(
        [("user", [*sound, ("text", f"Say sentence {number}.")])],
        speak=True,
        text="Here it comes.",
        cfg=2.5 if number % 4 == 0 else 1.0,
        audio_min_frames=85,
        max_tokens=95,
    )
    return Case(f"growing {number}", request)


GROWING = [growing(number) for number in range(9)]


def retractions(server: Server) -> int:
    """Return the number of retracted requests."""
    return sum(int(count) for count in re.findall(r"#retracted_reqs: (\d+)", server.output()))


def compete(client: Client, server: Server, cases: list[Case]) -> list[Any]:
    """Return the answers to requests that are all queued before the first of them is scheduled."""
    scheduler = server.part("sglang::scheduler")
    with ThreadPoolExecutor(1) as threads:
        scheduler.suspend()
        try:
            answers = threads.submit(client.chat_at_once, [case.body() for case in cases])
            assert wait_for(lambda: client.metrics()["speechlm_stages_running", ()] == len(cases))
        finally:
            scheduler.resume()
        return answers.result()


@pytest.fixture(scope="module")
def retracting(served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("retracting") / "log"
    environment = {"SGLANG_TEST_RETRACT": "1", "SGLANG_TEST_RETRACT_INTERVAL": "7"}
    options = (*POOL, "--prefill-decode-interval-min-bs", "1")
    with serving(served_checkpoint, log, *options, environment=environment) as running:
        yield running


@pytest.fixture(scope="module")
def crowded(served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(served_checkpoint, tmp_path_factory.mktemp("crowded") / "log", *SMALL_POOL) as running:
        yield running
        steps = re.findall(r"Prefill batch.*#new-token: (\d+)", running.output())
        assert max(int(positions) for positions in steps) <= CHUNK


@pytest.mark.parametrize("first", [0, len(CASES) - 24])
def test_24_concurrent_answers_with_retractions_equal_the_reference(
    first: int, retracting: Server, judge: Judge
) -> None:
    before = retractions(retracting)
    cases = CASES[first : first + 24]
    with Client(retracting.url) as client:
        client.clear_cache()
        assert judge.compare(cases, client.chat_at_once([case.body() for case in cases])) > 2000
    assert retractions(retracting) > before + 10


def test_24_answers_of_all_kinds_beyond_the_pool_equal_the_reference(crowded: Server, judge: Judge) -> None:
    before = retractions(crowded)
    short = [case for case in CASES if case.name not in ("long prompt", "clip longer than 30 s")]
    cases = [*GROWING, *short][:24]
    with Client(crowded.url) as client:
        client.clear_cache()
        assert judge.compare(cases, compete(client, crowded, cases)) > 2000
    assert retractions(crowded) > before


@pytest.mark.parametrize("again", [False, True])
def test_growing_answers_beyond_the_pool_equal_the_reference(again: bool, crowded: Server, judge: Judge) -> None:
    before = retractions(crowded)
    with Client(crowded.url) as client:
        if not again:
            client.clear_cache()
        assert judge.compare(GROWING, compete(client, crowded, GROWING)) > 5000
    assert retractions(crowded) > before
