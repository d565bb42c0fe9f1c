"""The dashboard, the alert rules and the scrape configuration use only metrics that servers and the router export."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from server import BY_NAME, SECONDS, Client, Server, clip, wait_for, wav

from sglang_speechlm.process import free_port
from sglang_speechlm.process.parent import end_with_parent

LAUNCH = Path(__file__).parents[2] / "launch"
DASHBOARD: dict[str, Any] = json.loads((LAUNCH / "grafana" / "speechlm.json").read_text())
PROMETHEUS: dict[str, Any] = yaml.safe_load((LAUNCH / "prometheus" / "prometheus.yml").read_text())
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((LAUNCH / "prometheus" / "rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ADDED = {"job", "instance", "worker"}
"""Labels that a scrape or the front of a fleet adds."""

Exported = dict[str, set[str]]
"""Label names by sample name."""


def expressions() -> dict[str, str]:
    """Return every query with values in place of Grafana's variables."""
    found = {f"{panel['title']}, {t['refId']}": t["expr"] for panel in PANELS for t in panel["targets"]}
    found = {name: query.replace("$__rate_interval", "1m") for name, query in found.items()}
    return found | {rule["alert"]: rule["expr"] for rule in RULES}


def selectors(query: str) -> list[promql_parser.VectorSelector]:
    """Return the metrics of a query, each with its label matchers."""
    found: list[promql_parser.VectorSelector] = []

    def visit(part: promql_parser.Expr) -> None:
        if isinstance(part, promql_parser.MatrixSelector):
            found.append(part.vector_selector)
        elif isinstance(part, promql_parser.VectorSelector):
            found.append(part)

    promql_parser.walk(promql_parser.parse(query), visit)
    return found


def grouped_by(query: str) -> set[str]:
    """Return the labels by which a query groups."""
    found: set[str] = set()

    def visit(part: promql_parser.Expr) -> None:
        if isinstance(part, promql_parser.AggregateExpr) and part.modifier is not None:
            found.update(part.modifier.labels)

    promql_parser.walk(promql_parser.parse(query), visit)
    return found


def labels_by_sample(text: str) -> Exported:
    """Return the samples of a scrape with their labels."""
    found: Exported = defaultdict(set)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] |= set(sample.labels)
    return found


@pytest.fixture(scope="module")
def router(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a router that has sent a request to ``server``, and yield the address of its metrics."""
    port, metrics_port = free_port(), free_port()
    command = [
        sys.executable, "-m", "smg.launch_router", "--host", "127.0.0.1", "--port", str(port),
        "--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics_port),
        "--worker-urls", server.url, "--policy", "round_robin", "--disable-retries",
    ]  # fmt: skip
    with (tmp_path_factory.mktemp("router") / "log").open("wb") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=partial(end_with_parent, signal.SIGTERM))
    url = f"http://127.0.0.1:{port}"

    def has_answered() -> bool:
        try:
            body = BY_NAME["text"].body() | {"max_tokens": 1}
            response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=SECONDS, trust_env=False)
        except httpx.HTTPError:
            return False
        return response.status_code == 200

    try:
        assert wait_for(has_answered)
        yield f"http://127.0.0.1:{metrics_port}/metrics"
    finally:
        running.kill()  # on SIGTERM, it waits for five seconds
        running.wait(SECONDS)


@pytest.fixture(scope="module")
def scraped(server: Server, router: str) -> Exported:
    """Return all that a worker and the router export after requests of every kind."""
    with Client(server.url) as client:
        bodies = [BY_NAME[case].body() for case in ("text", "spoken", "audio question")]
        client.chat_at_once([*bodies, BY_NAME["given text"].body(cfg=3.0)])
        worker = client.http.get("/metrics").text
    routers = httpx.get(router, timeout=SECONDS, trust_env=False).text
    return labels_by_sample(worker) | labels_by_sample(routers) | {"up": set()}


@pytest.mark.parametrize("name", expressions())
def test_a_query_uses_existing_metrics_and_labels(name: str, scraped: Exported) -> None:
    query = expressions()[name]
    metrics = selectors(query)
    assert metrics
    for metric in metrics:
        assert metric.name in scraped
        assert {matcher.name for matcher in metric.matchers.matchers} <= scraped[metric.name] | ADDED
        assert grouped_by(query) <= scraped[metric.name] | ADDED


@pytest.mark.parametrize("variable", [v for v in DASHBOARD["templating"]["list"] if v["type"] == "query"], ids=str)
def test_a_variable_is_read_from_an_existing_metric(variable: dict[str, Any], scraped: Exported) -> None:
    found = re.fullmatch(r"label_values\((\w+)(?:\{.*\})?, (\w+)\)", variable["query"]["query"])
    assert found
    assert found[1] in scraped
    assert found[2] in ADDED


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_legend_uses_labels_of_its_query(panel: dict[str, Any], scraped: Exported) -> None:
    for target in panel["targets"]:
        query = target["expr"].replace("$__rate_interval", "1m")
        (first, *_) = selectors(query)
        kept = grouped_by(query) or scraped[str(first.name)]
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept


@pytest.mark.parametrize("document", ["operating.md", "troubleshooting.md", "metrics.md"])
def test_documents_name_existing_metrics(document: str, scraped: Exported) -> None:
    text = (LAUNCH.parent / "docs" / document).read_text()
    families = {re.sub("_(bucket|count|sum)$", "", name) for name in scraped} | set(scraped)
    named = set(re.findall(r"\b(?:speechlm|smg)_[a-z_]+[a-z]\b|\bsglang:[a-z_]+[a-z]\b", text))
    assert named
    assert named <= families


def test_a_repeated_clip_is_not_encoded_again(server: Server) -> None:
    part = {"type": "input_audio", "input_audio": {"data": wav(clip(77, 0.9)), "format": "wav"}}
    with Client(server.url) as client:
        counts = []
        for question in ("What is it?", "Is it loud?"):
            content = [
                {"type": "text", "text": question},
                part,
            ]  # after the question, so that it is not in the radix cache
            client.chat({"messages": [{"role": "user", "content": content}], "max_tokens": 1})
            found = client.metrics()
            counts.append((found["speechlm_clips_total", ()], found["speechlm_clips_encoded_total", ()]))
    (clips, encoded), (clips_again, encoded_again) = counts
    assert clips_again == clips + 1
    assert encoded_again == encoded > 0


def test_the_first_text_is_timed_only_if_text_is_generated(server: Server) -> None:
    def count(mode: str) -> float:
        return client.metrics()["speechlm_first_text_seconds_count", (("mode", mode),)]

    with Client(server.url) as client:
        before = {mode: count(mode) for mode in ("text", "spoken")}
        client.chat(BY_NAME["text"].body())
        client.chat(BY_NAME["given text"].body(cfg=1.0))
        assert count("text") == before["text"] + 1
        assert count("spoken") == before["spoken"]


def test_panels_have_unique_ids_and_positions() -> None:
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(numbers) == len(set(numbers))
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_every_panel_uses_the_chosen_data_source() -> None:
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in PANELS:
        assert panel["datasource"] == source
        assert all(target["datasource"] == source for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_the_jobs_of_the_rules_are_scraped() -> None:
    jobs = {job["job_name"] for job in PROMETHEUS["scrape_configs"]}
    named = {
        matcher.value
        for rule in RULES
        for metric in selectors(rule["expr"])
        for matcher in metric.matchers.matchers
        if matcher.name == "job"
    }
    assert named <= jobs


@pytest.mark.parametrize("arguments", [("config", "prometheus.yml"), ("rules", "rules.yml")])
@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool comes with Debian's package prometheus")
def test_promtool_accepts_the_configuration(arguments: tuple[str, str]) -> None:
    command = ["promtool", "check", arguments[0], str(LAUNCH / "prometheus" / arguments[1])]
    subprocess.run(command, check=True, capture_output=True)
