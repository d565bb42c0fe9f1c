"""Invalid requests get OpenAI's error object, and the server goes on."""

import base64
import io
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from server import SECONDS, Client, clip, message_of, wav

CHAT = "/v1/chat/completions"
HUGE = 2**70
USER = {"role": "user", "content": "Hello."}
TOOL = {"type": "function", "function": {"name": "f"}}


def chat_body(**fields: Any) -> dict[str, Any]:
    return {"messages": [USER], "max_tokens": 2, **fields}


def with_speechlm(**fields: Any) -> dict[str, Any]:
    return chat_body(speechlm={"mode": "text_audio", **fields})


def with_xargs(**fields: Any) -> dict[str, Any]:
    return chat_body(vllm_xargs={"mode": "text_audio", "phase": "text", **fields})


def with_messages(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages), "max_tokens": 2}


def with_parts(*content: Any) -> dict[str, Any]:
    return with_messages({"role": "user", "content": list(content)})


def with_clip(data: Any, **more: Any) -> dict[str, Any]:
    return with_parts({"type": "input_audio", "input_audio": {"data": data, "format": "wav", **more}})


def with_url(url: Any) -> dict[str, Any]:
    return with_parts({"type": "audio_url", "audio_url": {"url": url}})


def float_wav(*samples: float) -> str:
    file = io.BytesIO()
    soundfile.write(file, np.array(samples, np.float32), 16000, format="WAV", subtype="FLOAT")
    return base64.b64encode(file.getvalue()).decode()


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


AUDIO = "messages[0].content[0].input_audio.data"
URL = "messages[0].content[0].audio_url.url"

BAD_FIELDS: list[tuple[str, dict[str, Any]]] = [
    # numbers that are out of range, of the wrong type, or huge
    ("temperature", chat_body(temperature=-0.1)),
    ("temperature", chat_body(temperature=2.1)),
    ("temperature", chat_body(temperature="0.5")),
    ("temperature", chat_body(temperature=True)),
    ("temperature", chat_body(temperature=[1])),
    ("top_k", chat_body(top_k=-2)),
    ("top_k", chat_body(top_k="20")),
    ("top_k", chat_body(top_k=True)),
    ("top_k", chat_body(top_k=1.5)),
    ("top_k", chat_body(top_k=HUGE)),
    ("top_p", chat_body(top_p=-0.1)),
    ("top_p", chat_body(top_p=1.1)),
    ("min_p", chat_body(min_p=-0.1)),
    ("frequency_penalty", chat_body(frequency_penalty=3)),
    ("presence_penalty", chat_body(presence_penalty="1")),
    ("repetition_penalty", chat_body(repetition_penalty=0)),
    ("logit_bias", chat_body(logit_bias={"word": 1})),
    ("logit_bias", chat_body(logit_bias={"9999999": 1})),
    ("logit_bias", chat_body(logit_bias={"-1": 1})),
    ("logit_bias", chat_body(logit_bias={"1" * 5000: 1})),
    ("logit_bias", chat_body(logit_bias={"x" * 100_000: 1})),
    ("logit_bias.300", chat_body(logit_bias={"300": "much"})),
    ("logit_bias", chat_body(logit_bias=[300])),
    ("max_tokens", chat_body(max_tokens=0)),
    ("max_tokens", chat_body(max_tokens=-5)),
    ("max_tokens", chat_body(max_tokens="12")),
    ("max_tokens", chat_body(max_tokens=True)),
    ("max_tokens", chat_body(max_tokens=1.5)),
    ("max_tokens", chat_body(max_tokens=HUGE)),
    ("max_completion_tokens", chat_body(max_completion_tokens=0)),
    ("seed", chat_body(seed=HUGE)),
    ("seed", chat_body(seed=2**63)),
    ("seed", chat_body(seed="7")),
    ("n", chat_body(n=0)),
    ("n", chat_body(n=17)),
    ("stop", chat_body(stop=5)),
    ("stop", chat_body(stop="")),
    ("stop", chat_body(stop=["a"] * 17)),
    ("stop[1]", chat_body(stop=["a", 1])),
    ("stop_token_ids[0]", chat_body(stop_token_ids=[-1])),
    ("stop_token_ids[0]", chat_body(stop_token_ids=["3"])),
    ("stop_token_ids", chat_body(stop_token_ids=3)),
    ("stop_token_ids", chat_body(stop_token_ids=[2, 2**31 - 1], min_tokens=1)),
    ("stop_token_ids[0]", chat_body(stop_token_ids=[HUGE])),
    ("stream", chat_body(stream="yes")),
    ("stream_options", chat_body(stream=True, stream_options=[])),
    ("stream_options.include_usage", chat_body(stream=True, stream_options={"include_usage": 1})),
    ("model", chat_body(model=5)),
    # fields that request an unsupported kind of answer
    ("logprobs", chat_body(logprobs=True)),
    ("top_logprobs", chat_body(top_logprobs=3)),
    ("tools[0].function", chat_body(tools=[{"type": "function"}])),
    ("tools[0].type", chat_body(tools=[{"type": "web_search", "function": {"name": "f"}}])),
    ("tools[0].function.name", chat_body(tools=[{"type": "function", "function": {"name": "f f"}}])),
    ("tools", chat_body(tools=[TOOL])),
    ("tools", chat_body(tools=[TOOL], tool_choice="auto")),
    ("tools", chat_body(tools=[TOOL], tool_choice="required")),
    ("tool_choice", chat_body(tools=[TOOL], tool_choice="any")),
    ("messages[0].role", with_messages({"role": "tool", "tool_call_id": "a", "content": "4"})),
    ("tool_choice", chat_body(tool_choice="required")),
    ("tool_choice", chat_body(tool_choice={"type": "function", "function": {"name": "f"}})),
    ("functions", chat_body(functions=[{"name": "f"}])),
    ("function_call", chat_body(function_call={"name": "f"})),
    ("response_format", chat_body(response_format="json")),
    ("response_format.type", chat_body(response_format={"type": "structural_tag"})),
    ("response_format.json_schema", chat_body(response_format={"type": "json_schema"})),
    (
        "response_format.json_schema.schema",
        chat_body(response_format={"type": "json_schema", "json_schema": {"name": "a"}}),
    ),
    (
        "response_format",
        chat_body(response_format={"type": "json_object"}, speechlm={"mode": "text_audio", "text": "Hi."}),
    ),
    ("min_tokens", chat_body(response_format={"type": "json_object"}, min_tokens=1)),
    ("guided_json", chat_body(guided_json={"type": "object"})),
    ("structured_outputs", chat_body(structured_outputs={"choice": ["a"]})),
    ("best_of", chat_body(best_of=3)),
    ("echo", chat_body(echo=True)),
    ("suffix", chat_body(suffix="The end.")),
    ("extra_body", chat_body(extra_body={"vllm_xargs": {"mode": "text_audio"}})),
    ("ignore_eos", chat_body(ignore_eos=1)),
    ("ignore_eos", chat_body(ignore_eos=True, modalities=["text", "audio"])),
    ("min_tokens", chat_body(min_tokens=-1)),
    ("min_tokens", chat_body(min_tokens=3)),
    # extension fields that are misspelt or misplaced
    ("vllm_xarg", chat_body(vllm_xarg={"mode": "text_audio"})),
    ("vllm-xargs", chat_body(**{"vllm-xargs": {"mode": "text_audio"}})),
    ("speech_lm", chat_body(speech_lm={"mode": "text_audio"})),
    ("SpeechLM", chat_body(SpeechLM={"mode": "text_audio"})),
    ("mode", chat_body(mode="text_audio")),
    ("cfg", chat_body(cfg=3.0)),
    ("audio_max_frames", chat_body(audio_max_frames=30)),
    ("modalities", chat_body(modalities="text")),
    ("modalities", chat_body(modalities=["audio"])),
    ("modalities[1]", chat_body(modalities=["text", "video"])),
    ("audio", chat_body(modalities=["text", "audio"], audio="wav")),
    ("audio.format", chat_body(modalities=["text", "audio"], audio={"voice": "alloy", "format": "midi"})),
    # the guide's vllm_xargs object
    ("vllm_xargs", chat_body(vllm_xargs=[])),
    ("vllm_xargs", chat_body(vllm_xargs="text_audio")),
    ("vllm_xargs.colour", with_xargs(colour="red")),
    ("vllm_xargs.mode", with_xargs(mode="audio")),
    ("vllm_xargs.mode", with_xargs(mode=1)),
    ("vllm_xargs.phase", with_xargs(phase="audio")),
    ("vllm_xargs.text_temperature", with_xargs(text_temperature=2.5)),
    ("vllm_xargs.audio_temperature", with_xargs(audio_temperature="0.8")),
    ("vllm_xargs.audio_topk", with_xargs(audio_topk=0)),
    ("vllm_xargs.audio_topk", with_xargs(audio_topk=-2)),
    ("vllm_xargs.cfg", with_xargs(cfg=0.5)),
    ("vllm_xargs.cfg", with_xargs(cfg=20.5)),
    ("vllm_xargs.cfg", with_xargs(cfg="3")),
    ("vllm_xargs.cfg", with_xargs(cfg=True)),
    # the speechlm object
    ("speechlm", chat_body(speechlm=5)),
    ("speechlm.volume", with_speechlm(volume=3)),
    ("speechlm.mode", with_speechlm(mode="text")),
    ("speechlm.phase", with_speechlm(phase="speech")),
    ("speechlm.cfg", with_speechlm(cfg=0)),
    ("speechlm.text_temperature", with_speechlm(text_temperature=-1)),
    ("speechlm.audio_temperature", with_speechlm(audio_temperature=3)),
    ("speechlm.text_top_k", with_speechlm(text_top_k=0)),
    ("speechlm.audio_topk", with_speechlm(audio_topk=1.5)),
    ("speechlm.text_max_tokens", with_speechlm(text_max_tokens=0)),
    ("speechlm.audio_min_frames", with_speechlm(audio_min_frames=-1)),
    ("speechlm.audio_min_frames", with_speechlm(audio_min_frames=9, audio_max_frames=8)),
    ("speechlm.audio_max_frames", with_speechlm(audio_max_frames=HUGE)),
    ("speechlm.seed", with_speechlm(seed=1.5)),
    ("speechlm.return_ids", with_speechlm(return_ids="yes")),
    ("speechlm.text", with_speechlm(text="")),
    ("speechlm.text", with_speechlm(text=["Hello."])),
    ("speechlm.text", chat_body(speechlm={"text": "Said, but not aloud."})),
    # messages
    ("messages", {"max_tokens": 2}),
    ("messages", with_messages()),
    ("messages", {"messages": "Hello."}),
    ("messages", {"messages": None}),
    ("messages", {"messages": USER}),
    ("messages[0]", with_messages("Hello.")),
    ("messages[0]", with_messages(None)),
    ("messages[0].role", with_messages({"content": "Hello."})),
    ("messages[0].role", with_messages({"role": "tool", "content": "Hello."})),
    ("messages[0].role", with_messages({"role": "User", "content": "Hello."})),
    ("messages[0].role", with_messages({"role": 5, "content": "Hello."})),
    ("messages[0].content", with_messages({"role": "user"})),
    ("messages[0].content", with_messages({"role": "user", "content": None})),
    ("messages[0].content", with_messages({"role": "user", "content": ""})),
    ("messages[0].content", with_messages({"role": "user", "content": []})),
    ("messages[0].content", with_messages({"role": "user", "content": [{"type": "text", "text": ""}] * 2})),
    ("messages[0].content", with_messages({"role": "user", "content": 5})),
    ("messages[0].content", with_messages({"role": "user", "content": {"type": "text", "text": "Hello."}})),
    ("messages[1].content", with_messages({"role": "system", "content": ""}, {"role": "user", "content": None})),
    ("messages[1].content", with_messages({"role": "user"}, {"role": "assistant", "tool_calls": [{"id": "a"}]})),
    ("messages[0].content[0]", with_parts("Hello.")),
    ("messages[0].content[0]", with_parts({"text": "Hello."})),
    ("messages[0].content[0]", with_parts({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}})),
    ("messages[0].content[0].text", with_parts({"type": "text"})),
    ("messages[0].content[0].text", with_parts({"type": "text", "text": 5})),
    ("messages[0].content[0].input_audio", with_parts({"type": "input_audio"})),
    ("messages[0].content[0].input_audio.data", with_parts({"type": "input_audio", "input_audio": {"format": "wav"}})),
    ("messages[0].content[0].input_audio.format", with_clip(wav(clip(1, 0.1)), format=1)),
    ("messages[0].content[0].audio_url", with_parts({"type": "audio_url", "audio_url": "data:audio/wav;base64,AAAA"})),
    (
        "messages[0].content[0].type",
        with_messages({"role": "assistant", "content": with_clip(wav(clip(1, 0.1)))["messages"][0]["content"]}),
    ),
    ("messages", with_messages({"role": "user", "content": "word " * 9000})),
    ("messages", with_messages(*[{"role": "user", "content": "word " * 1000}] * 9)),
    ("messages[0].content", with_messages({"role": "user", "content": "word " * 200_000})),
    ("speechlm.text", with_speechlm(text="word " * 200_000)),
    # clips
    (AUDIO, with_clip(5)),
    (AUDIO, with_clip("")),
    (AUDIO, with_clip("not base64!")),
    (AUDIO, with_clip("data:audio/wav," + wav(clip(1, 0.1)))),
    (AUDIO, with_clip(in_base64(b"This is no audio at all."))),
    (AUDIO, with_clip(in_base64(base64.b64decode(wav(clip(1, 0.1)))[:30]))),
    (AUDIO, with_clip(float_wav())),
    (AUDIO, with_clip(wav(clip(1, 0.1)[:80]))),
    (AUDIO, with_clip(float_wav(*[0.0] * 800, float("nan")))),
    (AUDIO, with_clip(float_wav(*[0.0] * 800, float("inf")))),
    (AUDIO, with_clip(float_wav(*[1e30] * 800))),
    (AUDIO, with_clip(in_base64(b"\0" * 33), format="pcm16")),
    (URL, with_url(5)),
    (URL, with_url("")),
    (URL, with_url("file:///etc/passwd")),
    (URL, with_url("http://169.254.169.254/latest")),
    (URL, with_url("https://example.com/clip.wav")),
    (URL, with_url(f"https://{'x' * 100_000}/clip.wav")),
    (URL, with_url("//example.com/clip.wav")),
    (URL, with_url("/etc/passwd")),
    (URL, with_url("data:audio/wav;base64,AAAA")),
    (URL, with_url("data:audio/wav,AAAA")),
]  # fmt: skip

MESSAGE = b'{"max_tokens": 2, "messages": [{"role": "user", "content": "Hello."}], '
BAD_BODIES: list[tuple[str, bytes]] = [
    ("nothing", b""),
    ("only a brace", b"{"),
    ("cut off", MESSAGE),
    ("a list", b"[]"),
    ("null", b"null"),
    ("a number", b"5"),
    ("a string", b'"Hello."'),
    ("NaN", MESSAGE + b'"temperature": NaN}'),
    ("Infinity", MESSAGE + b'"temperature": Infinity}'),
    ("minus Infinity", MESSAGE + b'"speechlm": {"cfg": -Infinity}}'),
    ("a number beyond doubles", MESSAGE + b'"temperature": 1e999}'),
    ("single quotes", b"{'messages': []}"),
    ("a comment", MESSAGE + b"/* */}"),
    ("invalid UTF-8", b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}'),
    ("UTF-16", '{"messages": []}'.encode("utf-16")),
    ("a lone surrogate", b'{"messages": [{"role": "user", "content": "\\ud800"}]}'),
    ("a surrogate in a name", MESSAGE + b'"model": "\\udfff"}'),
    ("a control character in a string", b'{"messages": [{"role": "user", "content": "a\nb"}]}'),
    ("10,000 open brackets", b"[" * 10_000),
    ("10,000 nested lists", MESSAGE + b'"x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
    ("900 nested objects", MESSAGE + b'"speechlm": ' + b'{"a": ' * 900 + b"1" + b"}" * 900 + b"}"),
    ("two documents", MESSAGE + b'"n": 1}{}'),
]


def refused(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    """Check the form of an error response and return its error."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"].startswith("application/json")
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert isinstance(error["message"], str)
    assert isinstance(error["param"], str | None)
    assert isinstance(error["code"], str | None)
    assert len(error["message"]) < 1000
    return error


def answers(client: Client) -> bool:
    """Return whether the next request is answered."""
    return bool(client.chat(chat_body(max_tokens=1))["choices"])


@pytest.mark.parametrize(("field", "body"), BAD_FIELDS, ids=[f"{i}-{field}" for i, (field, _) in enumerate(BAD_FIELDS)])
def test_a_bad_field_is_named(field: str, body: dict[str, Any], client: Client) -> None:
    error = refused(client.http.post(CHAT, json=body, timeout=SECONDS))
    assert error["message"].startswith(field) or error["param"] == field
    assert answers(client)


@pytest.mark.parametrize("body", [body for _, body in BAD_BODIES], ids=[name for name, _ in BAD_BODIES])
def test_a_bad_body_is_refused(body: bytes, client: Client) -> None:
    headers = {"Content-Type": "application/json"}
    refused(client.http.post(CHAT, content=body, headers=headers, timeout=SECONDS))
    assert answers(client)


@pytest.mark.parametrize("several", [False, True])
def test_a_stop_id_beyond_the_vocabulary_does_not_reach_the_scheduler(several: bool, client: Client) -> None:
    """With a minimum length, even that of another request, the id would be an index out of bounds."""
    params = {"max_new_tokens": 2, "min_new_tokens": 1, "stop_token_ids": [2**31 - 1]}
    body: dict[str, Any] = {"text": "Hello.", "sampling_params": params}
    if several:
        body = {"text": ["Hello."] * 2, "sampling_params": [{"max_new_tokens": 2}, params]}
    error = refused(client.http.post("/generate", json=body, timeout=SECONDS))
    assert error["param"] == "sampling_params.stop_token_ids"
    assert answers(client)


def test_an_error_names_the_field_the_value_and_what_is_allowed(client: Client) -> None:
    error = refused(client.http.post(CHAT, json=with_xargs(cfg=21)))
    assert error["message"] == "vllm_xargs.cfg: must be at most 20; got 21"
    assert error["param"] == "vllm_xargs.cfg"


def test_a_long_value_is_shortened_in_the_error(client: Client) -> None:
    error = refused(client.http.post(CHAT, json=chat_body(temperature="x" * 100_000)))
    assert len(error["message"]) < 300


def test_a_long_name_is_shortened_in_the_error(client: Client) -> None:
    assert refused(client.http.post(CHAT, json=chat_body(model="x" * 100_000)))["param"] == "model"
    refused(client.http.post(CHAT, json=chat_body(model="x" * 1000)), 404)
    error = refused(client.http.post(CHAT, json=with_clip(in_base64(b"no audio"), format="x" * 100_000)))
    assert error["message"].startswith(AUDIO)


def test_an_unknown_model_is_not_found(client: Client) -> None:
    error = refused(client.http.post(CHAT, json=chat_body(model="gpt-5")), 404)
    assert error["param"] == "model"
    assert error["code"] == "model_not_found"
    assert "gpt-5" in error["message"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", None])
def test_other_content_types_than_json_are_refused(content_type: str | None, client: Client) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    error = refused(client.http.post(CHAT, content=json.dumps(chat_body()), headers=headers), 415)
    assert "application/json" in error["message"]


def test_json_may_declare_its_charset(client: Client) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert client.http.post(CHAT, content=json.dumps(chat_body()), headers=headers).status_code == 200


def test_a_body_with_an_excessive_content_length_is_refused_unread(client: Client) -> None:
    address = (client.http.base_url.host, client.http.base_url.port or 80)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {1 << 40}\r\n\r\n"
    with socket.create_connection(address, timeout=SECONDS) as connection:
        connection.sendall(head.encode() + b"{")
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")
    assert answers(client)


def test_other_methods_are_refused(client: Client) -> None:
    response = client.http.get(CHAT)
    refused(response, 405)
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/v1", "/v1/chat", "/v1/embeddings", "/update_weights_from_disk", "/start_profile", "/stop_profile"],
)
def test_unknown_routes_are_not_found(path: str, client: Client) -> None:
    error = refused(client.http.post(path, json={}), 404)
    assert path in error["message"]


def test_names_of_control_tokens_are_plain_text(client: Client) -> None:
    def tokens(content: str) -> int:
        response = client.chat(with_messages({"role": "user", "content": content}))
        return int(response["usage"]["prompt_tokens"])

    assert tokens("<|eos|>") - tokens("a") > 3


def test_unusual_characters_are_plain_text(client: Client) -> None:
    assert answers(client)
    for content in ("\x00\x07\x1b", "\ufeff", "\u202e", "🙂" * 50, " ", "\r\n"):
        assert client.chat(with_messages({"role": "user", "content": content}))["choices"]


def test_hints_are_ignored_without_a_warning(client: Client) -> None:
    body = chat_body(user="me", metadata={"a": "b"}, store=True, response_format={"type": "text"}, service_tier="auto")
    body |= {"tools": [], "tool_choice": "none", "logprobs": False, "top_logprobs": 0, "parallel_tool_calls": False}
    body["messages"] = [{**USER, "name": "somebody"}]
    assert set(message_of(client.chat(body))) == {"role", "content"}


def test_unknown_fields_are_ignored_and_named_in_a_warning(client: Client) -> None:
    message = message_of(client.chat(chat_body(temprature=0.3, chat_template_kwargs={}, nothing=None)))
    assert message["speechlm"]["warnings"] == ["ignored: 'temprature', 'chat_template_kwargs'"]


def test_tools_are_ignored_if_tool_choice_is_none(client: Client) -> None:
    assert client.chat(chat_body(tools=[TOOL], tool_choice="none"))["choices"]


def test_null_fields_are_ignored(client: Client) -> None:
    optional = (
        "temperature",
        "top_k",
        "top_p",
        "seed",
        "n",
        "stop",
        "stream",
        "audio",
        "vllm_xargs",
        "speechlm",
        "model",
    )
    assert client.chat(chat_body(**dict.fromkeys(optional)))["choices"]


# Nothing is fetched


@contextmanager
def listening_server() -> Iterator[tuple[str, list[str]]]:
    """Yield the URL of a listening socket on the loopback, and the addresses of its callers."""
    callers: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, address = listener.accept()
                except OSError:
                    return
                callers.append(str(address))
                connection.close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/clip.wav", callers
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(SECONDS)


def test_a_loopback_url_is_not_fetched(client: Client) -> None:
    with listening_server() as (url, callers):
        refused(client.http.post(CHAT, json=with_url(url)))
        refused(client.http.post("/generate", json={"text": "Hello.", "audio_data": url}))
        assert answers(client)
    assert callers == []


def test_the_server_still_hears_a_clip_after_all_refusals(client: Client) -> None:
    assert message_of(client.chat(with_clip(wav(clip(1, 0.5)))))["content"]
