"""No client input causes a 5xx, a hang or the end of a worker."""

import base64
import io
import json
import string
from typing import Any

import httpx
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server import SECONDS, Client, clip, wav

CHAT = "/v1/chat/completions"
BOUNDED = settings(
    max_examples=100,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
ODD: list[Any] = [None, True, 0, -1, 1, 2, 2**31, 2**63, -(2**63), 2**70, 0.5, 1e-300, 1e308, "", "x", "text_audio",
                  "text", "3", [], [1], [[]], {}, {"a": 1}]  # fmt: skip

TOP = ("temperature", "top_k", "top_p", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty",
       "logit_bias", "seed", "n", "stop", "stop_token_ids", "stream", "stream_options", "modalities", "audio", "model",
       "logprobs", "tools", "max_completion_tokens", "vllm_xargs", "speechlm", "messages", "min_tokens", "ignore_eos",
       "response_format", "tool_choice", "top_logprobs", "extra_body", "vllm_xarg", "mode", "user")  # fmt: skip
OWN = ("mode", "phase", "text_temperature", "audio_temperature", "audio_topk", "cfg", "text_top_k", "text_max_tokens",
        "audio_min_frames", "audio_max_frames", "seed", "return_ids", "text", "unknown")  # fmt: skip

GOOD = wav(clip(1, 0.05))
FORMATS = ("wav", "mp3", "pcm", "pcm16", "", None, "x")


def encoded_clip(container: str, subtype: str | None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, clip(2, 0.4), 16000, format=container, subtype=subtype)
    return file.getvalue()


FILES = [
    encoded_clip(container, subtype)
    for container, subtype in [
        ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "MS_ADPCM"), ("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"),
        ("MP3", None), ("AIFF", None), ("CAF", "ALAC_16"), ("AU", None), ("W64", None), ("RF64", None),
    ]
]  # fmt: skip

values = st.sampled_from(ODD) | st.floats(-3, 3) | st.integers(-100, 100) | st.text(string.printable, max_size=5)
json_values = st.recursive(
    values, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
fields = st.dictionaries(st.sampled_from(TOP), values, max_size=2)
own_fields = st.dictionaries(st.sampled_from(OWN), values, max_size=2)


@st.composite
def mostly_valid_body(draw: st.DrawFn) -> dict[str, Any]:
    """A valid request with some random fields, which may be valid too."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": draw(st.text(min_size=1, max_size=20))}]}
    for name in draw(st.sets(st.sampled_from(("vllm_xargs", "speechlm")))):
        body[name] = {"mode": "text_audio", **draw(own_fields)}
    return body | draw(fields) | {"max_tokens": draw(st.sampled_from([1, 3, 12]))}


def assert_answered(response: httpx.Response) -> None:
    """Fail unless the response is an answer or a refusal in OpenAI's form."""
    if response.status_code == 200:
        if response.headers["content-type"].startswith("text/event-stream"):
            assert response.text.endswith("data: [DONE]\n\n")
            assert '"error"' not in response.text
        else:
            assert response.json()["choices"]
    else:
        assert response.status_code in (400, 404), response.text
        assert response.json()["error"]["message"]


def as_json(body: Any) -> bytes:
    """Return JSON in which lone surrogates, which hypothesis may draw, stay escaped."""
    return json.dumps(body, allow_nan=True).encode()


@BOUNDED
@given(mostly_valid_body())
def test_bodies_with_some_unusual_fields_are_answered(client: Client, body: dict[str, Any]) -> None:
    headers = {"Content-Type": "application/json"}
    assert_answered(client.http.post(CHAT, content=as_json(body), headers=headers, timeout=SECONDS))


ROLES = st.sampled_from(("system", "developer", "user", "assistant", "tool"))
TURN = ("audio", "refusal", "tool_calls", "function_call", "name", "role", "content")
part_fields = st.dictionaries(
    st.sampled_from(("type", "text", "refusal", "input_audio", "audio_url", "x")), json_values, max_size=1
)


@st.composite
def turns(draw: st.DrawFn) -> dict[str, Any]:
    """A valid message with some random fields or parts."""
    kind = draw(st.sampled_from(("text", "input_text", "refusal", "input_audio", "audio_url")))
    part = {"type": kind, "text": "Hi.", "input_audio": {"data": GOOD, "format": draw(st.sampled_from(FORMATS))}}
    parts = draw(st.lists(part_fields.map(lambda fields: part | fields), max_size=2))
    content = draw(st.sampled_from(("", None, "Hello.")) | st.just(parts))
    return {"role": draw(ROLES), "content": content, **draw(st.dictionaries(st.sampled_from(TURN), values, max_size=1))}


@BOUNDED
@given(st.lists(turns(), min_size=1, max_size=3))
def test_messages_with_some_unusual_fields_are_answered(client: Client, messages: list[dict[str, Any]]) -> None:
    content = as_json({"messages": messages, "max_tokens": 1})
    assert_answered(
        client.http.post(CHAT, content=content, headers={"Content-Type": "application/json"}, timeout=SECONDS)
    )


@BOUNDED
@given(st.lists(st.dictionaries(st.sampled_from(("role", "content", "name")), json_values, max_size=3), max_size=3))
def test_random_messages_are_answered(client: Client, messages: Any) -> None:
    body = {"messages": messages, "max_tokens": 1}
    assert_answered(
        client.http.post(CHAT, content=as_json(body), headers={"Content-Type": "application/json"}, timeout=SECONDS)
    )


@BOUNDED
@given(st.data())
def test_damaged_clips_are_answered(client: Client, data: st.DataObject) -> None:
    good = wav(clip(1, 0.05))
    start = data.draw(st.integers(0, 120))
    damaged = good[:start] + data.draw(st.text("AB+/=zé", max_size=12)) + good[start + data.draw(st.integers(0, 12)) :]
    part = {"type": "input_audio", "input_audio": {"data": damaged, "format": "wav"}}
    body = {"messages": [{"role": "user", "content": [part]}], "max_tokens": 1}
    assert_answered(client.http.post(CHAT, json=body, timeout=SECONDS))


@BOUNDED
@given(st.data())
def test_damaged_files_of_every_format_are_answered(client: Client, data: st.DataObject) -> None:
    file = bytearray(b"".join(data.draw(st.lists(st.sampled_from(FILES), min_size=1, max_size=2))))
    for _ in range(data.draw(st.integers(0, 6))):
        # Mostly in headers, where damage has the greatest effect.
        file[data.draw(st.integers(0, min(200, len(file) - 1)) | st.integers(0, len(file) - 1))] = data.draw(
            st.sampled_from((0, 1, 0x7F, 0x80, 0xFF)) | st.integers(0, 255)
        )
    whole = bytes(file[: data.draw(st.just(len(file)) | st.integers(0, len(file)))])
    audio = {"data": base64.b64encode(whole).decode(), "format": data.draw(st.sampled_from(FORMATS))}
    part = {"type": "input_audio", "input_audio": audio}
    body = {"messages": [{"role": "user", "content": [part]}], "max_tokens": 1}
    assert_answered(client.http.post(CHAT, json=body, timeout=SECONDS))


@settings(BOUNDED, max_examples=20)
@given(st.binary(max_size=60))
def test_random_bytes_are_refused(client: Client, body: bytes) -> None:
    response = client.http.post(CHAT, content=body, headers={"Content-Type": "application/json"}, timeout=SECONDS)
    assert response.status_code == 400


# SGLang's own route


def stage(**params: Any) -> dict[str, Any]:
    return {"input_ids": [1, 5, 7, 300, 2, 6], "sampling_params": {"max_new_tokens": 9, **params}}


def frames(**params: Any) -> dict[str, Any]:
    return stage(custom_params={"audio": True, **params})


PROBABILITIES = {"return_logprob": True, "top_logprobs_num": 100, "token_ids_logprob": list(range(500))}
"""Of 601 ids at each position."""

BAD_STAGES: list[Any] = [
    None, [], "Hello.", {}, {"text": ""}, {"text": 5}, {"text": "a", "input_ids": [1]}, {"input_ids": "a"},
    {"input_ids": []}, {"input_ids": [[]]}, {"input_ids": [-1]}, {"input_ids": [10**6]}, {"input_ids": [2**70]},
    {"input_ids": [1.5]}, {"input_ids": ["a"]}, {"input_ids": [1] * 5000}, {"input_ids": [[1], [10**6]]},
    {"text": "word " * 200_000}, {"text": ["a", "word " * 200_000]},
    {"input_embeds": [[0.1] * 96]}, {"text": "a", "sampling_params": 5}, {"text": "a", "sampling_params": ["a"]},
    {"text": "a", "sampling_params": [{}]}, {"text": ["a", "b"], "sampling_params": [{}]},
    {"input_ids": [1, 2], "sampling_params": [{}, {}]},
    stage(unknown=1), stage(temperature="hot"), stage(temperature=-1), stage(top_k=2**70), stage(top_k=0),
    stage(max_new_tokens=-1), stage(max_new_tokens="9"), stage(min_new_tokens=10), stage(n=0), stage(n=10**6),
    stage(stop=5), stage(stop_token_ids=["a"]), stage(stop_regex="(a+)+$"), stage(regex="a+"), stage(json_schema="{}"),
    stage(logit_bias={"9999999": 1}), stage(stream_interval=0), stage(sampling_seed=2**63), stage(sampling_seed="a"),
    stage(custom_params=5), stage(custom_params=["audio"]), frames(audio="yes"), frames(min_frames="x"),
    frames(min_frames=-5), frames(min_frames=1.5), frames(min_frames=2**70), frames(min_frames=None), frames(cfg="x"),
    frames(cfg=-3), frames(cfg=1e9), frames(unknown=1), {**frames(), "rid": "a::u"}, {**stage(), "rid": 5},
    {**stage(), "audio_data": "x"}, {**stage(), "image_data": ["http://127.0.0.1/"]}, {**stage(), "video_data": "x"},
    {**stage(), "session_params": {"id": "a"}}, {**stage(), "lora_path": "a"},
    {**stage(), "custom_logit_processor": "a"}, {**stage(), "return_hidden_states": True},
    {**stage(), "bootstrap_room": 2**70}, {**stage(), "priority": "a"},
    {**stage(), "return_logprob": "yes"}, {**stage(), "return_logprob": True, "top_logprobs_num": 10**6},
    {**stage(), "return_logprob": True, "token_ids_logprob": [10**6]},
    {**stage(), "return_logprob": True, "logprob_start_len": 10**6},
    {**stage(max_new_tokens=1000), **PROBABILITIES}, {**stage(max_new_tokens=90), **PROBABILITIES, "stream": True},
    {**stage(max_new_tokens=90, n=16), **PROBABILITIES},
    {"input_ids": [[5] * 500] * 2, **PROBABILITIES, "logprob_start_len": 0},
    stage(frequency_penalty=1, custom_params={"audio": True}), stage(min_new_tokens=2, custom_params={"audio": True}),
]  # fmt: skip

GOOD_STAGES: list[Any] = [
    {"text": "Hello.", "sampling_params": {"max_new_tokens": 2}},
    {"text": ["Hello.", "Bye."], "sampling_params": {"max_new_tokens": 0, "temperature": 0}, "return_logprob": True,
     "return_text_in_logprobs": True, "logprob_start_len": 1},
    stage(max_new_tokens=3, n=2, stop=["a"], temperature=0.5, top_p=0.9, top_k=5, min_p=0.1, frequency_penalty=0.5,
          presence_penalty=0.5, ignore_eos=True, regex=None, json_schema=None, stop_regex=[],
          skip_special_tokens=True, spaces_between_special_tokens=True),
    stage(repetition_penalty=1.2),
    stage(min_new_tokens=3),
    frames(),
    frames(min_frames=2**31 - 1),
    frames(cfg=3.0),
    {**frames(), "return_logprob": True, "top_logprobs_num": 2, "token_ids_logprob": [3]},
    {**frames(), "stream": True},
    {**stage(max_new_tokens=3), **PROBABILITIES, "logprob_start_len": 0},
]  # fmt: skip


def generate(client: Client, body: Any) -> httpx.Response:
    headers = {"Content-Type": "application/json"}
    return client.http.post("/generate", content=as_json(body), headers=headers, timeout=SECONDS)


@pytest.mark.parametrize("body", BAD_STAGES, ids=lambda body: json.dumps(body)[:70])
def test_a_bad_stage_is_refused_and_ends_no_worker(body: Any, client: Client) -> None:
    response = generate(client, body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert generate(client, stage(max_new_tokens=1)).status_code == 200


@pytest.mark.parametrize("body", GOOD_STAGES, ids=lambda body: json.dumps(body)[:70])
def test_a_valid_stage_runs(body: Any, client: Client) -> None:
    response = generate(client, body)
    assert response.status_code == 200, response.text
    assert "output_ids" in response.text


def test_a_request_for_log_probabilities_shares_a_batch_with_others(client: Client) -> None:
    """SGLang's own sampler crashes the scheduler if both are in one batch."""
    endless = {"text": "On", "sampling_params": {"max_new_tokens": 3000, "ignore_eos": True}, "stream": True}
    with client.http.stream("POST", "/generate", json=endless, timeout=SECONDS) as other:
        lines = other.iter_lines()
        next(lines)
        body = {**stage(max_new_tokens=3), "return_logprob": True, "token_ids_logprob": [3, 300]}
        meta = generate(client, body).json()["meta_info"]
        assert [[index for _, index, _ in step] for step in meta["output_token_ids_logprobs"]] == [[3, 300]] * 3
        assert next(line for line in lines if line)


SHAPED: list[dict[str, Any]] = [
    {"logit_bias": {"300": 5}},
    {"frequency_penalty": 1.5},
    {"repetition_penalty": 1.3},
    {"presence_penalty": 1.5, "top_p": 0.5},
    {"min_p": 0.3},
    {"stop": ["a", "e"]},
    {"temperature": 0, "logit_bias": {"3": -100}},
]


def test_stages_of_every_kind_share_batches(client: Client) -> None:
    """Penalties and biases for the whole vocabulary run next to frames, which need only part of it."""
    spoken = {
        "messages": [{"role": "user", "content": "Hello."}],
        "max_tokens": 60,
        "speechlm": {"mode": "text_audio", "text": "Hello.", "audio_min_frames": 50},
    }
    written = [
        {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4 + i, **extra}
        for i, extra in enumerate(SHAPED)
    ]
    for response in client.chat_at_once([spoken, *written, spoken, *written]):
        assert response["choices"]


@pytest.mark.parametrize(
    "path", ["/health", "/health_generate", "/v1/models", "/model_info", "/server_info", "/v1/loads"]
)
def test_routes_for_operators_answer(path: str, client: Client) -> None:
    assert client.http.get(path, timeout=SECONDS).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/abort_request", {"rid": 5}),
        ("POST", "/flush_cache?timeout=x", None),
        ("GET", "/v1/loads?include=everything", None),
    ],
)
def test_invalid_requests_of_operators_are_refused(method: str, path: str, body: Any, client: Client) -> None:
    response = client.http.request(method, path, json=body, timeout=SECONDS)
    assert response.status_code == 400
    assert response.json()["error"]["message"]
    assert generate(client, stage()).status_code == 200
