"""GET /metrics after requests of every kind."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server import BY_NAME, Client, Server, message_of, samples_of, wait_for

from sglang_speechlm.metrics.metric import METRICS, Counter, Histogram, Metric

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
SPOKEN = BY_NAME["given text"]
HALF_THE_POOL = "\x01" * 4085
"""One id per character: this fits a single request, but not a guided pair."""


@pytest.fixture
def client(metered: Server) -> Iterator[Client]:
    with Client(metered.url) as client:
        yield client


class Growth:
    """The growth of samples since its creation."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._before = client.metrics()

    def of(self, name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return self._client.metrics()[key] - self._before[key]


def spoken_with(cfg: float) -> dict[str, Any]:
    return SPOKEN.body(cfg=cfg)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_name_ends_in_its_unit_or_in_total(metric: Metric) -> None:
    assert metric.name.endswith("_total") == isinstance(metric, Counter)
    assert metric.name.endswith("_seconds") == isinstance(metric, Histogram)
    assert re.fullmatch("speechlm_[a-z_]+", metric.name)


def test_the_document_lists_the_metrics() -> None:
    rows = [
        f"| `{metric.name}` | {type(metric).__name__.lower()} | {', '.join(f'`{label}`' for label in metric.labels)} "
        f"| {metric.meaning} |".replace("|  |", "| |")
        for metric in METRICS
    ]
    assert [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")] == rows


def test_disabled_metrics_do_not_import_prometheus() -> None:
    program = (
        "import sys; from sglang_speechlm import metrics; metrics.PAIRS_REJECTED.add(); "
        "metrics.REPLY_SECONDS.observe(1.0, mode='text'); assert 'prometheus_client' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_series_is_exported_together_with_sglangs_own(client: Client) -> None:
    names = {name for name, _ in client.metrics()}
    for metric in METRICS:
        assert (f"{metric.name}_count" if isinstance(metric, Histogram) else metric.name) in names
    assert ("speechlm_replies_total", (("finish_reason", "error"), ("mode", "text"))) in client.metrics()
    assert "sglang:" in client.http.get("/metrics").text


def test_a_written_reply_counts_as_text(client: Client) -> None:
    growth = Growth(client)
    client.chat(BY_NAME["text"].body())
    assert growth.of("speechlm_replies_total", mode="text", finish_reason="stop") == 1
    assert growth.of("speechlm_text_stage_seconds_count", mode="text") == 1
    assert growth.of("speechlm_reply_seconds_count", mode="text") == 1
    assert growth.of("speechlm_reply_seconds_sum", mode="text") >= growth.of(
        "speechlm_text_stage_seconds_sum", mode="text"
    )


@pytest.mark.parametrize(("cfg", "mode", "kind"), [(1.0, "spoken", "plain"), (3.0, "guided", "guided")])
def test_a_spoken_reply_counts_its_frames_and_its_sound(cfg: float, mode: str, kind: str, client: Client) -> None:
    growth = Growth(client)
    response = client.chat(spoken_with(cfg))
    message = message_of(response)
    end = response["choices"][0]["finish_reason"]
    assert growth.of("speechlm_replies_total", mode=mode, finish_reason=end) == 1
    frames = response["usage"]["completion_tokens_details"]["audio_tokens"] - (end == "stop")
    assert growth.of("speechlm_frames_total", kind=kind) == frames > 0
    seconds = len(samples_of(message)) / 16000
    assert growth.of("speechlm_audio_seconds_total", kind=kind) == pytest.approx(seconds)
    for name in ("text_stage", "first_audio", "reply"):
        assert growth.of(f"speechlm_{name}_seconds_count", mode=mode) == 1
    assert growth.of("speechlm_first_audio_seconds_sum", mode=mode) > 0


def test_a_reply_to_a_disconnected_client_is_an_abort(client: Client) -> None:
    growth = Growth(client)
    body = SPOKEN.body(audio_min_frames=3000) | {"stream": True, "max_tokens": 3500}
    with client.http.stream("POST", "/v1/chat/completions", json=body) as response:
        next(response.iter_lines())
    assert wait_for(lambda: growth.of("speechlm_replies_total", mode="spoken", finish_reason="abort") == 1)
    assert growth.of("speechlm_reply_seconds_count", mode="spoken") == 0


def test_a_pair_that_can_never_fit_is_rejected_by_both_processes(client: Client) -> None:
    growth = Growth(client)
    body = {"messages": [{"role": "user", "content": HALF_THE_POOL}], "speechlm": {"mode": "text_audio", "cfg": 3.0}}
    assert client.http.post("/v1/chat/completions", json=body).status_code == 400
    assert growth.of("speechlm_pairs_rejected_total") == 1
    assert growth.of("speechlm_replies_total", mode="guided", finish_reason="refused") == 1
    params = {"max_new_tokens": 1, "custom_params": {"audio": True, "cfg": 3.0}}
    stage = {"input_ids": [0] * 4089, "sampling_params": params}
    assert client.http.post("/generate", json=stage).status_code == 400
    assert growth.of("speechlm_pairs_rejected_total") == 2


def test_each_pair_that_waits_for_a_second_row_is_deferred_once(client: Client) -> None:
    growth = Growth(client)
    client.chat_at_once([SPOKEN.body(cfg=2.0, audio_min_frames=60)] * 3)  # long enough to meet
    # Two pairs wait for the first, which counts too if it is retracted in favour of one of them.
    assert growth.of("speechlm_pairs_deferred_total") in (2, 3)


def test_retractions_are_counted_even_for_a_pair_without_max_tokens(client: Client) -> None:
    growth = Growth(client)
    body = SPOKEN.body(cfg=2.0, audio_min_frames=30)
    bounded = client.chat(body)
    del body["max_tokens"]
    assert message_of(client.chat(body))["speechlm"]["codes"] == message_of(bounded)["speechlm"]["codes"]
    assert growth.of("speechlm_pairs_retracted_total") > 0


@pytest.mark.parametrize(("method", "path"), [("GET", "/made/up/5f0c"), ("MADEUP5F0C", "/v1/models")])
def test_what_clients_make_up_becomes_no_label(method: str, path: str, client: Client) -> None:
    assert client.http.request(method, path).status_code in (404, 405)
    assert client.http.get("/v1/models").status_code == 200
    metrics = client.http.get("/metrics").text
    assert 'endpoint="/v1/models"' in metrics
    assert "5f0c" not in metrics.lower()
