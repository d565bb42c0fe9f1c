"""Profiles, if the operator's environment variable allows them."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from server import Client, Server, wait_for


def test_a_profile_of_some_steps_is_written(metered: Server, tmp_path: Path) -> None:
    with Client(metered.url) as client:
        body = {"num_steps": 2, "activities": ["CPU"], "output_dir": str(tmp_path)}
        assert client.http.post("/start_profile", json=body).status_code == 200
        client.generate({"text": "Hello", "sampling_params": {"max_new_tokens": 8, "ignore_eos": True}})
    assert wait_for(lambda: any(tmp_path.rglob("*.trace.json.gz")))
    (trace,) = tmp_path.rglob("*.trace.json.gz")
    assert wait_for(lambda: "aten::mm" in names_in(trace))


def test_a_profile_that_cannot_be_written_ends_nothing_but_itself(metered: Server, tmp_path: Path) -> None:
    (no_folder := tmp_path / "file").touch()
    body = {"num_steps": 1, "activities": ["CPU"], "output_dir": str(no_folder)}
    with Client(metered.url) as client:
        assert client.http.post("/start_profile", json=body).status_code == 200
        client.generate({"text": "Hello", "sampling_params": {"max_new_tokens": 8, "ignore_eos": True}})
        client.generate({"text": "Hello", "sampling_params": {"max_new_tokens": 8, "ignore_eos": True}})
        refused = client.http.post("/stop_profile")
    assert refused.status_code == 400
    assert "not in progress" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("num_steps", {"profile_by_stage": True}), ("num_steps", {"num_steps": 0}), ("activities", {"activities": []}),
        ("activities[0]", {"activities": ["RPD"]}), ("output_dir", {"output_dir": "~nobody/x"}), ("x", {"x": 1}),
        ("profile_id", {"profile_id": "../x"}),
    ],
)  # fmt: skip
def test_a_profile_in_a_wrong_form_is_refused(field: str, body: dict[str, Any], metered: Server) -> None:
    with Client(metered.url) as client:
        refused = client.http.post("/start_profile", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == field


def test_profiling_is_not_found_without_the_variable(server: Server) -> None:
    with Client(server.url) as client:
        assert client.http.post("/start_profile", json={}).status_code == 404


def names_in(trace: Path) -> set[str]:
    """Return the names of a trace's events; none while the file is being written."""
    try:
        events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    except (EOFError, ValueError, gzip.BadGzipFile):
        return set()
    return {event["name"] for event in events}
