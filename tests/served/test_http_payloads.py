"""Bodies of other projects' clients are answered, and incomplete turns of a history are tolerated."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from server import SECONDS, Client, clip, message_of, wav
from server.client import CHAT

USER = {"role": "user", "content": "Hello."}
WAV = wav(clip(3, 0.5))
PCM = base64.b64encode((np.sin(np.arange(12_000) / 9) * 9000).astype("<i2").tobytes()).decode()


def clip_body(data: str = WAV, **more: Any) -> dict[str, Any]:
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav", **more}}
    return {"messages": [{"role": "user", "content": [part]}], "max_tokens": 2}


def body_of(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages), "max_tokens": 2}


def tokens(client: Client, body: dict[str, Any]) -> int:
    return int(client.chat(body)["usage"]["prompt_tokens"])


def warnings_of(response: Any) -> list[str]:
    return list(message_of(response).get("speechlm", {}).get("warnings", []))


PAYLOADS: dict[str, dict[str, Any]] = {
    "Open WebUI": {
        "stream": False, "model": "speechlm", "max_tokens": 3, "stream_options": {"include_usage": True},
        "messages": [{"role": "system", "content": ""}, {"role": "user", "content": "Hi"}],
    },
    "LobeChat": {
        "frequency_penalty": 0, "presence_penalty": 0, "temperature": 1, "top_p": 1, "model": "speechlm",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "max_tokens": 3, "tools": None,
    },
    "LangChain": {
        "messages": [
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi", "name": None},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "user", "content": "And?"},
        ],
        "n": 1, "temperature": 0.7, "stream": False, "max_completion_tokens": 3, "logprobs": None, "stop": None,
    },
    "LiveKit": {
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "You are a voice assistant."}]},
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}}]},
            {"role": "assistant", "content": ""}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        ],
        "model": "speechlm", "temperature": 0.8, "max_completion_tokens": 3, "user": "x", "metadata": {},
        "tool_choice": "auto", "parallel_tool_calls": True,
    },
    "Pipecat": {
        "model": "speechlm", "max_tokens": 3, "seed": 1, "stream": False, "tools": [], "tool_choice": "none",
        "messages": [{"role": "user", "content": [
            {"type": "text", "text": "Audio follows"},
            {"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}}]}],
    },
    "LiteLLM": {
        "messages": [{"role": "user", "content": [
            {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]}],
        "max_tokens": 3.0, "top_k": 0, "response_format": {"type": "text"}, "drop_params": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_clients_payload_is_answered(name: str, client: Client) -> None:
    assert client.chat(PAYLOADS[name])["choices"]


def test_a_byte_order_mark_before_the_body_is_accepted(client: Client) -> None:
    content = b"\xef\xbb\xbf" + json.dumps(body_of(USER)).encode()
    response = client.http.post(CHAT, content=content, headers={"Content-Type": "application/json"}, timeout=SECONDS)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    "body",
    [
        clip_body("\n".join(WAV[start : start + 76] for start in range(0, len(WAV), 76))),
        clip_body(WAV.rstrip("=").replace("+", "-").replace("/", "_")),
        clip_body(f"data:audio/wav;base64,{WAV}"),
        clip_body(f"data:;base64,{WAV}", format=None),
        clip_body(format="mp3"),
        clip_body(format="pcm16"),
        clip_body(format=""),
    ],
    ids=["lines", "url-safe", "data URL", "bare data URL", "called mp3", "called pcm16", "called nothing"],
)
def test_a_clip_is_the_same_however_it_is_encoded(body: dict[str, Any], client: Client) -> None:
    expected, found = client.chat(clip_body()), client.chat(body)
    assert found["usage"]["prompt_tokens_details"]["audio_tokens"] == 7
    assert found["usage"]["prompt_tokens"] == expected["usage"]["prompt_tokens"]
    assert warnings_of(found) == []


@pytest.mark.parametrize("name", ["pcm", "pcm16"])
def test_raw_samples_have_openais_sample_rate(name: str, client: Client) -> None:
    assert client.chat(clip_body(PCM, format=name))["usage"]["prompt_tokens_details"]["audio_tokens"] == 7


def test_a_truncated_file_is_used_with_a_warning(client: Client) -> None:
    data = base64.b64decode(WAV)
    (warning,) = warnings_of(client.chat(clip_body(base64.b64encode(data[: len(data) // 2]).decode())))
    assert warning.startswith("messages[0].content[0].input_audio.data: the file is damaged or cut off after 0.2")


@pytest.mark.parametrize(
    "empty",
    [
        {"role": "system", "content": ""},
        {"role": "developer", "content": None},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": [{"type": "text", "text": ""}]},
        {"role": "assistant"},
        {"role": "assistant", "audio": None, "content": None},
    ],
)
def test_an_empty_turn_is_skipped(empty: dict[str, Any], client: Client) -> None:
    answer = client.chat(body_of(USER, empty, USER))
    assert answer["usage"]["prompt_tokens"] == tokens(client, body_of(USER, USER))
    assert warnings_of(answer) == []


@pytest.mark.parametrize(
    ("turn", "warning"),
    [
        ({"role": "user", "content": ""}, "messages[1].content is empty"),
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}, "messages[1].tool_calls: "),
        ({"role": "assistant", "content": None, "function_call": {"name": "f"}}, "messages[1].function_call: "),
    ],
)
def test_an_unreadable_turn_is_skipped_with_a_warning(turn: dict[str, Any], warning: str, client: Client) -> None:
    answer = client.chat(body_of(USER, turn, USER))
    assert answer["usage"]["prompt_tokens"] == tokens(client, body_of(USER, USER))
    assert warnings_of(answer)[0].startswith(warning)


def test_a_refusal_is_read_as_the_assistants_text(client: Client) -> None:
    refused = {"role": "assistant", "content": None, "refusal": "I won't."}
    assert tokens(client, body_of(USER, refused, USER)) == tokens(
        client, body_of(USER, {"role": "assistant", "content": "I won't."}, USER)
    )


def test_a_top_p_of_zero_is_greedy(client: Client) -> None:
    fixed = {"messages": [USER], "max_tokens": 12, "speechlm": {"return_ids": True}}
    greedy = client.chat({**fixed, "temperature": 0})
    nearly = client.chat({**fixed, "temperature": 2, "top_p": 0})
    assert message_of(nearly)["speechlm"]["text_ids"] == message_of(greedy)["speechlm"]["text_ids"]


def test_min_tokens_and_ignore_eos_lengthen_a_text(client: Client) -> None:
    stops = {"logit_bias": {"3": 100}}
    short = client.chat({"messages": [USER], "max_tokens": 40, **stops})
    assert short["usage"]["completion_tokens"] < 5
    at_least = client.chat({"messages": [USER], "max_tokens": 40, "min_tokens": 20, **stops})
    assert at_least["usage"]["completion_tokens"] == 21
    ignoring = client.chat({"messages": [USER], "max_tokens": 40, "ignore_eos": True, **stops})
    assert ignoring["usage"]["completion_tokens"] == 40
    assert ignoring["choices"][0]["finish_reason"] == "length"


def test_usage_is_null_in_the_chunks_before_the_last(client: Client) -> None:
    *chunks, last = client.stream({**body_of(USER), "stream_options": {"include_usage": True}})
    assert [chunk["usage"] for chunk in chunks] == [None] * len(chunks)
    assert last["usage"]["completion_tokens"] > 0


def test_the_list_of_models_accepts_a_trailing_slash(client: Client) -> None:
    assert client.http.get("/v1/models/").json() == client.http.get("/v1/models").json()


def test_no_message_of_libsndfile_reaches_a_user(client: Client) -> None:
    for data in (b"RIFF", b"This is a text.", b"\x1a\x45\xdf\xa3", b"fLaC" + bytes(50), b"OggS" + bytes(60)):
        response = client.http.post(CHAT, json=clip_body(base64.b64encode(data).decode()), timeout=SECONDS)
        message = response.json()["error"]["message"]
        assert "Accepted formats: WAV, MP3" in message
        assert not any(word in message for word in ("libsndfile", "Error", "File contains", "Format not recognised"))
