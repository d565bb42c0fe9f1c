"""Payloads of the usage guide and of the openai client get the answers that their clients expect."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
import soundfile
from server import Client, Server, assert_same_sound, clip, message_of, samples_of, wav
from server.stock import openai_client

from sglang_speechlm.audio import encoder_length

RATE = 16000
SPOKEN = {"mode": "text_audio", "text": "One, two, three.", "audio_max_frames": 20, "seed": 5}
"""A short spoken answer."""

GUIDE_TEXT = {
    "model": "speechlm-qwen3-8b",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is machine learning?"},
    ],
    "max_tokens": 4096,
    "temperature": 0.6,
    "top_k": 20,
    "stop_token_ids": [3],
}
GUIDE_SPOKEN = {
    "model": "speechlm-qwen3-8b",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Read this aloud in a calm voice."},
    ],
    "max_tokens": 12000,
    "temperature": 0.8,
    "top_k": 20,
    "vllm_xargs": {
        "mode": "text_audio",
        "phase": "text",
        "text_temperature": 0.6,
        "audio_temperature": 0.8,
        "audio_topk": 20,
    },
}
GUIDE_GUIDED = {**GUIDE_SPOKEN, "vllm_xargs": {**GUIDE_SPOKEN["vllm_xargs"], "cfg": 3.0}}  # type: ignore[dict-item]


def guide_clip_body(seconds: float) -> dict[str, Any]:
    return {
        "model": "speechlm-qwen3-8b",
        "messages": [
            {"role": "system", "content": "You are an audio understanding assistant."},
            {
                "role": "user",
                "content": [
                    {"type": "input_audio", "input_audio": {"data": wav(clip(1, seconds)), "format": "wav"}},
                ],
            },
            {"role": "user", "content": "What sound is in this audio?"},
        ],
        "max_tokens": 4096,
        "temperature": 0.6,
        "stop_token_ids": [3],
    }


def chat_body(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hello there."}], "max_tokens": 60, **fields}


def ids_of(response: Any) -> Any:
    message = message_of(response)
    return message["speechlm"]["text_ids"], message["speechlm"]["codes"]


@pytest.fixture(scope="module")
def stock(server: Server) -> Iterator[openai.OpenAI]:
    with openai_client(server.url) as client:
        yield client


# The usage guide


def test_the_guides_text_payload_is_answered_in_text(client: Client) -> None:
    response = client.chat(GUIDE_TEXT)
    (choice,) = response["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    assert "audio" not in choice["message"]
    assert response["model"] == "speechlm-qwen3-8b"
    assert response["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize("payload", [GUIDE_SPOKEN, GUIDE_GUIDED], ids=["cfg 1", "cfg 3"])
def test_the_guides_spoken_payload_is_answered_in_text_and_sound(payload: dict[str, Any], client: Client) -> None:
    response = client.chat(payload)
    message = message_of(response)
    assert message["content"] == message["audio"]["transcript"]
    samples = samples_of(message)
    frames = response["usage"]["completion_tokens_details"]["audio_tokens"]
    assert 0 < len(samples) <= (frames - 7) * 320
    assert np.abs(samples).max() > 0


def test_the_guides_audio_question_is_answered_in_text(client: Client) -> None:
    response = client.chat(guide_clip_body(1.0))
    assert message_of(response)["content"]
    assert response["usage"]["prompt_tokens_details"]["audio_tokens"] == encoder_length(100, 50)


# The openai client


def test_openai_text(stock: openai.OpenAI) -> None:
    completion = stock.chat.completions.create(
        model="speechlm-qwen3-8b", messages=[{"role": "user", "content": "Hello."}], max_tokens=20, temperature=0
    )
    assert completion.object == "chat.completion"
    assert completion.choices[0].message.content
    assert completion.choices[0].finish_reason in ("stop", "length")
    assert completion.usage is not None
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


def test_openai_text_and_audio(stock: openai.OpenAI) -> None:
    completion = stock.chat.completions.create(
        model="speechlm-qwen3-8b",
        messages=[{"role": "user", "content": "Say hello."}],
        modalities=["text", "audio"],
        audio={"voice": "alloy", "format": "wav"},
        max_tokens=200,
        seed=1,
        extra_body={"speechlm": {"text_max_tokens": 5, "audio_max_frames": 30}},
    )
    message = completion.choices[0].message
    assert message.audio is not None
    assert message.audio.id
    assert message.audio.expires_at > completion.created
    assert message.audio.transcript == message.content
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(message.audio.data)))
    assert rate == RATE
    assert len(samples) > 0
    details = completion.usage.completion_tokens_details if completion.usage else None
    assert details is not None
    assert details.audio_tokens is not None
    assert 0 < details.audio_tokens <= 30


def test_openai_input_audio(stock: openai.OpenAI) -> None:
    completion = stock.chat.completions.create(
        model="speechlm-qwen3-8b",
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "input_audio", "input_audio": {"data": wav(clip(2, 0.5)), "format": "wav"}},
                ],
            }
        ],
        max_completion_tokens=10,
    )
    assert completion.choices[0].message.content
    assert completion.usage is not None
    assert completion.usage.prompt_tokens_details is not None
    assert completion.usage.prompt_tokens_details.audio_tokens == encoder_length(50, 50)


def test_openai_text_stream(stock: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "Hello."}]
    fixed: dict[str, Any] = {"model": "speechlm", "messages": messages, "max_tokens": 20, "temperature": 0}
    chunks = list(stock.chat.completions.create(**fixed, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant"
    whole = stock.chat.completions.create(**fixed)
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + [
        whole.choices[0].finish_reason
    ]


def test_openai_lists_the_served_model(stock: openai.OpenAI, server: Server) -> None:
    model, *_ = stock.models.list().data
    assert model.object == "model"
    answer = stock.chat.completions.create(model=model.id, messages=[{"role": "user", "content": "Hi"}], max_tokens=1)
    assert answer.model == model.id


def test_openai_errors_raise_their_own_classes(stock: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        stock.chat.completions.create(model="speechlm", messages=[])
    assert refused.value.param == "messages"
    with pytest.raises(openai.NotFoundError) as unknown:
        stock.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "Hi"}])
    assert unknown.value.code == "model_not_found"


# Streams


def test_a_text_stream_has_openais_order(client: Client) -> None:
    events = client.stream(chat_body(max_tokens=8, temperature=0, stream_options={"include_usage": True}))
    usage = events.pop()
    assert usage["choices"] == []
    assert 0 < usage["usage"]["completion_tokens"] <= 8
    end = events.pop()["choices"][0]
    assert end["delta"] == {}
    assert end["finish_reason"] in ("stop", "length")
    first, *texts = [event["choices"][0] for event in events]
    assert first["delta"]["role"] == "assistant"
    assert texts
    assert all(set(text["delta"]) == {"content"} and text["finish_reason"] is None for text in texts)
    assert len({event["id"] for event in events}) == 1
    assert {event["object"] for event in events} == {"chat.completion.chunk"}


def test_a_stream_has_no_usage_unless_requested(client: Client) -> None:
    events = client.stream(chat_body(max_tokens=3))
    assert not any("usage" in event for event in events)


def test_a_prompt_that_is_too_long_is_refused_before_its_stream_begins(client: Client) -> None:
    body = chat_body(messages=[{"role": "user", "content": "word " * 9000}], stream=True)
    response = client.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert "messages" in response.json()["error"]["message"]


# Usage, ids and warnings


def test_usage_adds_up(client: Client) -> None:
    body = chat_body(speechlm={"mode": "text_audio", "text_max_tokens": 6, "audio_max_frames": 20, "return_ids": True})
    client.chat(body)
    response = client.chat(body)
    usage, (text_ids, codes) = response["usage"], ids_of(response)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    frames = usage["completion_tokens_details"]["audio_tokens"]
    assert usage["completion_tokens"] == len(text_ids) + frames
    assert len(codes) in (frames - 7, frames - 8)  # if the audio ended with eos, that frame is counted too
    assert usage["prompt_tokens"] - 2 <= usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]
    assert usage["prompt_tokens_details"]["audio_tokens"] == 0


def test_return_ids_returns_the_codes_of_the_sound(client: Client) -> None:
    message = message_of(client.chat(chat_body(speechlm={**SPOKEN, "return_ids": True})))
    codes = np.array(message["speechlm"]["codes"])
    assert codes.shape == (len(samples_of(message)) / 320, 8)
    assert codes.min() >= 0
    assert codes.max() < 64
    assert message["speechlm"]["warnings"] == []
    assert set(message["speechlm"]["cached_tokens"]) == {"text", "audio"}


def test_return_ids_of_a_text_answer_has_no_codes(client: Client) -> None:
    message = message_of(client.chat(chat_body(speechlm={"return_ids": True})))
    assert message["speechlm"]["codes"] is None
    assert message["speechlm"]["text_ids"]


def test_an_answer_without_warnings_or_ids_has_only_openais_fields(client: Client) -> None:
    assert set(message_of(client.chat(chat_body()))) == {"role", "content"}


def test_a_clip_longer_than_30_s_is_cut_with_a_warning(client: Client) -> None:
    response = client.chat(guide_clip_body(31.0) | {"max_tokens": 4})
    (warning,) = message_of(response)["speechlm"]["warnings"]
    assert "cut to 30 s" in warning
    assert "messages[1].content[0]" in warning
    assert response["usage"]["prompt_tokens_details"]["audio_tokens"] == encoder_length(3000, 50)


def test_missing_sound_is_explained_in_a_warning(client: Client) -> None:
    response = client.chat(chat_body(max_tokens=3, modalities=["text", "audio"]))
    assert response["choices"][0]["finish_reason"] == "length"
    assert message_of(response)["audio"] is None
    (warning,) = message_of(response)["speechlm"]["warnings"]
    assert "max_tokens" in warning


# Several ways to request the same


GREEDY = {"text_temperature": 0}
WILD = {"text_temperature": 2, "audio_temperature": 2}


def ids_at_once(client: Client, *requests: dict[str, Any]) -> list[Any]:
    """Return the text ids and codes of concurrent answers."""
    bodies = [
        chat_body(**{**fields, "speechlm": {**fields.get("speechlm", {}), "return_ids": True}}) for fields in requests
    ]
    return [ids_of(response) for response in client.chat_at_once(bodies)]


def test_speechlm_takes_precedence_over_vllm_xargs_and_both_over_the_top_level(client: Client) -> None:
    requests: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 2, "vllm_xargs": GREEDY},
        {"temperature": 2, "vllm_xargs": WILD, "speechlm": GREEDY},
        {"temperature": 2},
        {"temperature": 0, "vllm_xargs": WILD},
        {"temperature": 0, "vllm_xargs": GREEDY, "speechlm": WILD},
    ]
    fixed = {"max_tokens": 12, "seed": 3, "top_k": -1}
    greedy, *answers = ids_at_once(client, *({**fixed, **fields} for fields in requests))
    wild = answers[2]
    assert greedy != wild
    assert answers == [greedy, greedy, wild, wild, wild]


def test_openais_modalities_and_the_guides_mode_are_equivalent(client: Client) -> None:
    fixed = {"max_tokens": 60, "temperature": 0, "speechlm": {"text_max_tokens": 5, "audio_max_frames": 12}}
    by_mode, by_modalities = ids_at_once(
        client, {**fixed, "vllm_xargs": {"mode": "text_audio"}}, {**fixed, "modalities": ["text", "audio"]}
    )
    assert by_mode == by_modalities


def test_the_audio_temperature_takes_precedence_over_the_top_level(client: Client) -> None:
    greedy, also_greedy = ids_at_once(
        client,
        {"temperature": 0, "speechlm": SPOKEN},
        {"temperature": 2, "vllm_xargs": {"audio_temperature": 0}, "speechlm": SPOKEN},
    )
    assert greedy == also_greedy


def test_the_seed_of_speechlm_takes_precedence_over_the_top_level(client: Client) -> None:
    first, second, third = ids_at_once(client, {"seed": 1}, {"seed": 2}, {"seed": 2, "speechlm": {"seed": 1}})
    assert first != second
    assert third == first


# Formats and choices


def test_every_format_contains_the_same_sound(client: Client) -> None:
    names = ("wav", "pcm16", "flac", "mp3", "opus")
    bodies = [chat_body(audio={"voice": "x", "format": name}, sample_rate=RATE, speechlm=SPOKEN) for name in names]
    messages = [message_of(response) for response in client.chat_at_once(bodies)]
    sounds = {name: base64.b64decode(message["audio"]["data"]) for name, message in zip(names, messages, strict=True)}
    expected, rate = soundfile.read(io.BytesIO(sounds["wav"]), dtype="int16")
    assert rate == RATE
    assert_same_sound(np.frombuffer(sounds["pcm16"], "<i2"), expected)
    assert_same_sound(soundfile.read(io.BytesIO(sounds["flac"]), dtype="int16")[0], expected)
    for name, container in (("mp3", "MP3"), ("opus", "OGG")):
        with soundfile.SoundFile(io.BytesIO(sounds[name])) as file:
            assert file.format == container
            assert len(file.read()) / file.samplerate == pytest.approx(len(expected) / rate, abs=0.001), name


def test_choices_differ_and_the_first_equals_a_single_answer(client: Client) -> None:
    body = chat_body(seed=7, speechlm={"return_ids": True, "mode": "text_audio", "text_max_tokens": 8})
    alone, response = client.chat_at_once([body, body | {"n": 2}])
    assert [choice["index"] for choice in response["choices"]] == [0, 1]
    first, second = [choice["message"]["speechlm"] for choice in response["choices"]]
    assert first["codes"] == message_of(alone)["speechlm"]["codes"] != second["codes"]
    assert response["usage"]["completion_tokens"] > alone["usage"]["completion_tokens"]


def test_a_stop_string_that_only_broken_characters_match_ends_the_text(client: Client) -> None:
    bodies = [
        {
            "messages": [{"role": "user", "content": f"Say {number}."}],
            "max_tokens": 60,
            "seed": number,
            "stop": "\ufffd",
        }
        for number in range(12)
    ]
    for response in client.chat_at_once(bodies):
        assert response["choices"][0]["finish_reason"] in ("stop", "length")
