"""A fleet of one worker: a single server that is restarted automatically."""

from pathlib import Path

import pytest
from server import wait_for
from server.fleet import SharedFleet

from sglang_speechlm.process import ExitStatus

CHAT = "/v1/chat/completions"
TEXT = {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4}


def test_a_fleet_that_is_started_by_its_command_line_answers_and_stops(
    served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with SharedFleet(1, served_checkpoint, tmp_path_factory) as shared:
        fleet = shared.running()
        assert fleet.client.http.post(CHAT, json=TEXT).status_code == 200
        assert fleet.server.stop() == ExitStatus.STOPPED


def test_a_worker_whose_http_process_hangs_fails_its_requests_and_is_restarted(
    served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with SharedFleet(1, served_checkpoint, tmp_path_factory, is_copying=True) as shared:
        fleet = shared.running()
        (url,) = fleet.workers
        fleet.keeper(url).children()[0].suspend()
        answer = fleet.client.http.post(CHAT, json=TEXT)
        assert answer.status_code in (502, 503)
        assert wait_for(lambda: fleet.client.http.get("/health").status_code == 503)
        assert wait_for(fleet.is_healthy)
        assert fleet.client.http.post(CHAT, json=TEXT).status_code == 200
