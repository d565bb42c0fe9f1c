"""The served model under its names."""

from __future__ import annotations

from pathlib import Path

import httpx
import openai
import pytest
from server import Client

from sglang_speechlm.options.command_line import read


def test_a_model_without_a_name_is_called_as_its_directory(served_checkpoint: Path, client: Client) -> None:
    (model,) = client.http.get("/v1/models").json()["data"]
    assert model["id"] == served_checkpoint.name
    assert model["max_model_len"] > 0


@pytest.mark.parametrize("path", [".", "{}/", "{}"])
def test_a_directory_has_one_name_however_it_is_written(
    path: str, served_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(served_checkpoint)
    assert read(["--model-path", path.format(served_checkpoint)]).name == served_checkpoint.name


@pytest.mark.parametrize("name", ["bagpiper", "speechlm", "default", "{name}"])
def test_every_name_that_requests_may_use_is_found(name: str, served_checkpoint: Path, client: Client) -> None:
    name = name.format(name=served_checkpoint.name)
    with openai.OpenAI(base_url=f"{client.http.base_url}/v1", api_key="none", http_client=httpx.Client()) as asking:
        assert asking.models.retrieve(name).id == name


def test_a_name_of_nothing_is_not_found_as_in_a_request(client: Client) -> None:
    found = client.http.get("/v1/models/nothing")
    asked = client.http.post(
        "/v1/chat/completions", json={"model": "nothing", "messages": [{"role": "user", "content": "Hi."}]}
    )
    assert found.status_code == asked.status_code == 404
    assert found.json() == asked.json()


@pytest.mark.parametrize("headers", [{}, {"Content-Encoding": "gzip"}])
def test_a_large_body_for_no_route_is_not_found(headers: dict[str, str], client: Client) -> None:
    answer = client.http.post("/v1/nothing", content=b"x" * (1 << 20), headers=headers)
    assert answer.status_code == 404
    assert answer.headers["connection"] == "close"


def test_a_large_body_for_a_route_that_takes_none_is_the_wrong_method(client: Client) -> None:
    assert client.http.post("/v1/models", content=b"x" * (1 << 20)).status_code == 405
