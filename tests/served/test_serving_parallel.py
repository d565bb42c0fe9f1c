"""Two ranks of tensor parallelism: every rank draws the same ids, and they are the reference's."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from server import BY_NAME, CASES, Client, Judge, listening_addresses, message_of
from server.life import WatchedServer, assert_part_failure_ends_server, started

TWO_RANKS = {"SGLANG_CPU_OMP_THREADS_BIND": "0|1"}
"""One core each; SGLang wants a NUMA node for each rank otherwise."""
SAMPLED = ("text", "spoken", "guided", "spoken answer to audio")


@pytest.fixture(scope="module")
def watched(served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedServer]:
    log = tmp_path_factory.mktemp("parallel") / "log"
    with started(served_checkpoint, log, "--tp-size", "2", variables=TWO_RANKS) as living:
        yield living


@pytest.fixture
def parallel(watched: WatchedServer) -> Iterator[Client]:
    with Client(watched.server.url) as client:
        yield client


def test_twelve_answers_of_all_kinds_are_the_references(parallel: Client, judge: Judge) -> None:
    cases = CASES[:12]
    assert judge.compare(cases, parallel.chat_at_once([case.body() for case in cases])) > 2000


def test_sampled_answers_are_those_of_one_rank(parallel: Client, client: Client) -> None:
    bodies = [
        BY_NAME[name].body(seed=11, text_temperature=0.9, audio_temperature=0.9, audio_max_frames=60)
        for name in SAMPLED
    ]
    for alone, shared in zip(client.chat_at_once(bodies), parallel.chat_at_once(bodies), strict=True):
        assert message_of(shared)["speechlm"]["text_ids"] == message_of(alone)["speechlm"]["text_ids"]
        assert message_of(shared)["speechlm"]["codes"] == message_of(alone)["speechlm"]["codes"]


def test_ranks_listen_on_the_loopback_alone(watched: WatchedServer) -> None:
    assert listening_addresses(watched.server.process.pid) == {"127.0.0.1"}


def test_requests_in_a_server_whose_rank_is_killed_get_an_error(watched: WatchedServer) -> None:
    """Last, for it ends the server of all tests here."""
    assert_part_failure_ends_server(watched, "sglang::scheduler", signal.SIGKILL)
