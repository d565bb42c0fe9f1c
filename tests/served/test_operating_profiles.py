"""Profiles, if the operator's environment variable allows them."""

import gzip
import json
from pathlib import Path

from server import Client, Server, wait_for


def test_a_profile_of_some_steps_is_written(metered: Server, tmp_path: Path) -> None:
    with Client(metered.url) as client:
        body = {"num_steps": 2, "activities": ["CPU"], "output_dir": str(tmp_path)}
        assert client.http.post("/start_profile", json=body).status_code == 200
        client.generate({"text": "Hello", "sampling_params": {"max_new_tokens": 8, "ignore_eos": True}})
    assert wait_for(lambda: any(tmp_path.rglob("*.trace.json.gz")))
    (trace,) = tmp_path.rglob("*.trace.json.gz")
    assert wait_for(lambda: "aten::mm" in names_in(trace))


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
