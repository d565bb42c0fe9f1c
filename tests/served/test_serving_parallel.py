"""Two ranks of tensor parallelism: both sample the same ids, and these equal the reference's."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from server import BY_NAME, CASES, Client, Judge, listening_addresses, message_of
from server.life import WatchedServer, assert_part_failure_ends_server, started

TWO_RANKS = {"SGLANG_CPU_OMP_THREADS_BIND": "0|1"}
"""One core per rank; otherwise SGLang needs a NUMA node for each."""
SAMPLED = ("text", "spoken", "guided", "spoken answer to audio")


@pytest.fixture(scope="module")
def running_server(
    served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], WatchedServer]]:
    """Yield a function that returns the server of this file, started again if a test has ended it."""
    servers: list[WatchedServer] = []
    with ExitStack() as stack:

        def running() -> WatchedServer:
            if not servers or servers[-1].server.process.poll() is not None:
                log = tmp_path_factory.mktemp("parallel") / "log"
                server = started(served_checkpoint, log, "--tp-size", "2", variables=TWO_RANKS)
                servers.append(stack.enter_context(server))
            return servers[-1]

        yield running


@pytest.fixture
def watched(running_server: Callable[[], WatchedServer]) -> WatchedServer:
    return running_server()


@pytest.fixture
def parallel(watched: WatchedServer) -> Iterator[Client]:
    with Client(watched.server.url) as client:
        yield client


def test_twelve_answers_of_all_kinds_equal_the_reference(parallel: Client, judge: Judge) -> None:
    cases = CASES[:12]
    assert judge.compare(cases, parallel.chat_at_once([case.body() for case in cases])) > 500


def test_sampled_answers_equal_those_of_one_rank(parallel: Client, client: Client) -> None:
    bodies = [
        BY_NAME[name].body(seed=11, text_temperature=0.9, audio_temperature=0.9, audio_max_frames=60)
        for name in SAMPLED
    ]
    for single, shared in zip(client.chat_at_once(bodies), parallel.chat_at_once(bodies), strict=True):
        assert message_of(shared)["speechlm"]["text_ids"] == message_of(single)["speechlm"]["text_ids"]
        assert message_of(shared)["speechlm"]["codes"] == message_of(single)["speechlm"]["codes"]


def test_ranks_listen_only_on_the_loopback(watched: WatchedServer) -> None:
    assert listening_addresses(watched.server.process.pid) == {"127.0.0.1"}


def test_a_killed_rank_ends_the_server_with_errors_for_its_requests(watched: WatchedServer) -> None:
    assert_part_failure_ends_server(watched, "sglang::scheduler", signal.SIGKILL)
