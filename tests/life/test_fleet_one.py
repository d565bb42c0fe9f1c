"""A fleet of one worker: a single server that is restarted automatically."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from server import wait_for
from server.fleet import SharedFleet

from sglang_speechlm.process import ExitStatus

CHAT = "/v1/chat/completions"
TEXT = {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4}


def answers_and_stops(fleets: SharedFleet) -> None:
    with fleets:
        fleet = fleets.running()
        assert fleet.client.http.post(CHAT, json=TEXT).status_code == 200
        assert fleet.server.stop() == ExitStatus.STOPPED


def worker_is_restarted(fleets: SharedFleet) -> None:
    with fleets:
        fleet = fleets.running()
        (url,) = fleet.workers
        fleet.keeper(url).children()[0].suspend()
        answer = fleet.client.http.post(CHAT, json=TEXT)
        assert answer.status_code in (502, 503)
        assert wait_for(lambda: fleet.client.http.get("/health").status_code == 503)
        assert wait_for(fleet.is_healthy)
        assert fleet.client.http.post(CHAT, json=TEXT).status_code == 200


@pytest.fixture(scope="module")
def outcomes(served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Future[None]]:
    """Start two fleets at once: while the hang of one is noticed, the other imports its modules."""
    typed = SharedFleet(1, served_checkpoint, tmp_path_factory)
    copying = SharedFleet(1, served_checkpoint, tmp_path_factory, is_copying=True)
    with ThreadPoolExecutor() as threads:
        return {"typed": threads.submit(answers_and_stops, typed), "hang": threads.submit(worker_is_restarted, copying)}


def test_a_fleet_that_is_started_by_its_command_line_answers_and_stops(outcomes: dict[str, Future[None]]) -> None:
    outcomes["typed"].result()


def test_a_worker_whose_http_process_hangs_fails_its_requests_and_is_restarted(
    outcomes: dict[str, Future[None]],
) -> None:
    outcomes["hang"].result()
