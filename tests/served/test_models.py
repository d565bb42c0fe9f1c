"""The names of the served model."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest
from server import Client, Server

from sglang_speechlm.options.command_line import read


def test_a_model_without_a_name_is_named_after_its_directory(served_checkpoint: Path, client: Client) -> None:
    model, *_ = client.http.get("/v1/models").json()["data"]
    assert model["id"] == served_checkpoint.name
    assert model["max_model_len"] > 0


@pytest.mark.parametrize("path", [".", "{}/", "{}"])
def test_a_directory_has_the_same_name_however_its_path_is_written(
    path: str, served_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(served_checkpoint)
    assert read(["--model-path", path.format(served_checkpoint)]).name == served_checkpoint.name


@pytest.mark.parametrize("name", ["bagpiper", "speechlm", "default", "{name}", "tts-1"])
def test_every_name_that_requests_may_use_can_be_retrieved(name: str, served_checkpoint: Path, client: Client) -> None:
    name = name.format(name=served_checkpoint.name)
    stock = openai.OpenAI(base_url=f"{client.http.base_url}/v1", api_key="none", http_client=client.http)
    assert stock.models.retrieve(name).id == name


def test_aliases_are_listed_after_the_served_name(served_checkpoint: Path, client: Client) -> None:
    names = [served_checkpoint.name, "tts-1", "whisper-1", "gpt-4o-audio-preview"]
    assert [model["id"] for model in client.http.get("/v1/models").json()["data"]] == names
    assert [model["id"] for model in client.http.get("/v1/audio/models").json()["models"]] == names


def test_an_answer_repeats_the_model_name_of_its_request(client: Client) -> None:
    body = {"model": "gpt-4o-audio-preview", "messages": [{"role": "user", "content": "Hi."}], "max_tokens": 2}
    assert client.http.post("/v1/chat/completions", json=body).json()["model"] == body["model"]


def test_a_server_with_any_model_answers_under_any_name(metered: Server) -> None:
    body = {"model": "gpt-9", "messages": [{"role": "user", "content": "Hi."}], "max_tokens": 2}
    with Client(metered.url) as client:
        assert client.http.post("/v1/chat/completions", json=body).json()["model"] == "gpt-9"
        assert client.http.get("/v1/models/gpt-9").json()["id"] == "gpt-9"
        refused = client.http.post("/v1/chat/completions", json=body | {"model": "x" * 1001})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")


def test_an_unknown_name_gets_the_same_404_as_in_a_request(client: Client) -> None:
    found = client.http.get("/v1/models/nothing")
    refused = client.http.post(
        "/v1/chat/completions", json={"model": "nothing", "messages": [{"role": "user", "content": "Hi."}]}
    )
    assert found.status_code == refused.status_code == 404
    assert found.json() == refused.json()


@pytest.mark.parametrize("headers", [{}, {"Content-Encoding": "gzip"}])
def test_a_large_body_on_an_unknown_route_is_not_found(headers: dict[str, str], client: Client) -> None:
    answer = client.http.post("/v1/nothing", content=b"x" * (1 << 20), headers=headers)
    assert answer.status_code == 404
    assert answer.headers["connection"] == "close"


def test_a_large_body_on_a_get_route_is_the_wrong_method(client: Client) -> None:
    assert client.http.post("/v1/models", content=b"x" * (1 << 20)).status_code == 405
