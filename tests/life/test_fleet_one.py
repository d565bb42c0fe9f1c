"""A fleet of one worker: a single server that is restarted automatically."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from server import SECONDS, wait_for
from server.fleet import Fleet, SharedFleet

from sglang_speechlm.process import ExitStatus

CHAT = "/v1/chat/completions"
TEXT = {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4}
ENDLESS = {**TEXT, "max_tokens": 3900, "logit_bias": {"2": -100, "3": -100}}


@pytest.fixture(scope="module")
def shared_fleet(served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedFleet]:
    with SharedFleet(1, served_checkpoint, tmp_path_factory) as shared:
        yield shared


@pytest.fixture
def fleet(shared_fleet: SharedFleet) -> Fleet:
    return shared_fleet.running()


def test_a_worker_whose_http_process_hangs_fails_its_requests_and_is_restarted(fleet: Fleet) -> None:
    (url,) = fleet.workers
    http = fleet.keeper(url).children()[0]
    http.suspend()
    answer = httpx.post(f"{fleet.server.url}{CHAT}", json=ENDLESS, timeout=SECONDS, trust_env=False)
    assert answer.status_code in (502, 503)
    assert wait_for(lambda: fleet.client.http.get("/health").status_code == 503)
    assert wait_for(fleet.is_healthy)
    assert fleet.client.http.post(CHAT, json=TEXT).status_code == 200


def test_a_stopped_fleet_ends_with_status_stopped(fleet: Fleet) -> None:
    assert fleet.server.stop() == ExitStatus.STOPPED
