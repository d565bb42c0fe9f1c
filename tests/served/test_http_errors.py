"""Whatever is wrong with a request is said in OpenAI's error object, and the server goes on."""

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


def ask(**fields: Any) -> dict[str, Any]:
    return {"messages": [USER], "max_tokens": 2, **fields}


def ours(**fields: Any) -> dict[str, Any]:
    return ask(speechlm={"mode": "text_audio", **fields})


def guides(**fields: Any) -> dict[str, Any]:
    return ask(vllm_xargs={"mode": "text_audio", "phase": "text", **fields})


def say(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages), "max_tokens": 2}


def parts(*content: Any) -> dict[str, Any]:
    return say({"role": "user", "content": list(content)})


def heard(data: Any, **more: Any) -> dict[str, Any]:
    return parts({"type": "input_audio", "input_audio": {"data": data, "format": "wav", **more}})


def linked(url: Any) -> dict[str, Any]:
    return parts({"type": "audio_url", "audio_url": {"url": url}})


def float_wav(*samples: float) -> str:
    file = io.BytesIO()
    soundfile.write(file, np.array(samples, np.float32), 16000, format="WAV", subtype="FLOAT")
    return base64.b64encode(file.getvalue()).decode()


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


AUDIO = "messages[0].content[0].input_audio.data"
URL = "messages[0].content[0].audio_url.url"

BAD_FIELDS: list[tuple[str, dict[str, Any]]] = [
    # numbers out of range, of another type, or larger than anything
    ("temperature", ask(temperature=-0.1)),
    ("temperature", ask(temperature=2.1)),
    ("temperature", ask(temperature="0.5")),
    ("temperature", ask(temperature=True)),
    ("temperature", ask(temperature=[1])),
    ("top_k", ask(top_k=-2)),
    ("top_k", ask(top_k="20")),
    ("top_k", ask(top_k=True)),
    ("top_k", ask(top_k=1.5)),
    ("top_k", ask(top_k=HUGE)),
    ("top_p", ask(top_p=-0.1)),
    ("top_p", ask(top_p=1.1)),
    ("min_p", ask(min_p=-0.1)),
    ("frequency_penalty", ask(frequency_penalty=3)),
    ("presence_penalty", ask(presence_penalty="1")),
    ("repetition_penalty", ask(repetition_penalty=0)),
    ("logit_bias", ask(logit_bias={"word": 1})),
    ("logit_bias", ask(logit_bias={"9999999": 1})),
    ("logit_bias", ask(logit_bias={"-1": 1})),
    ("logit_bias", ask(logit_bias={"1" * 5000: 1})),
    ("logit_bias", ask(logit_bias={"x" * 100_000: 1})),
    ("logit_bias.300", ask(logit_bias={"300": "much"})),
    ("logit_bias", ask(logit_bias=[300])),
    ("max_tokens", ask(max_tokens=0)),
    ("max_tokens", ask(max_tokens=-5)),
    ("max_tokens", ask(max_tokens="12")),
    ("max_tokens", ask(max_tokens=True)),
    ("max_tokens", ask(max_tokens=1.5)),
    ("max_tokens", ask(max_tokens=HUGE)),
    ("max_completion_tokens", ask(max_completion_tokens=0)),
    ("seed", ask(seed=HUGE)),
    ("seed", ask(seed=2**63)),
    ("seed", ask(seed="7")),
    ("n", ask(n=0)),
    ("n", ask(n=17)),
    ("stop", ask(stop=5)),
    ("stop", ask(stop="")),
    ("stop", ask(stop=["a"] * 17)),
    ("stop[1]", ask(stop=["a", 1])),
    ("stop_token_ids[0]", ask(stop_token_ids=[-1])),
    ("stop_token_ids[0]", ask(stop_token_ids=["3"])),
    ("stop_token_ids", ask(stop_token_ids=3)),
    ("stop_token_ids", ask(stop_token_ids=[2, 2**31 - 1], min_tokens=1)),
    ("stop_token_ids[0]", ask(stop_token_ids=[HUGE])),
    ("stream", ask(stream="yes")),
    ("stream_options", ask(stream=True, stream_options=[])),
    ("stream_options.include_usage", ask(stream=True, stream_options={"include_usage": 1})),
    ("model", ask(model=5)),
    # what asks for another answer than this
    ("logprobs", ask(logprobs=True)),
    ("top_logprobs", ask(top_logprobs=3)),
    ("tools[0].function", ask(tools=[{"type": "function"}])),
    ("tools[0].type", ask(tools=[{"type": "web_search", "function": {"name": "f"}}])),
    ("tools[0].function.name", ask(tools=[{"type": "function", "function": {"name": "f f"}}])),
    ("tools", ask(tools=[TOOL])),
    ("tools", ask(tools=[TOOL], tool_choice="auto")),
    ("tools", ask(tools=[TOOL], tool_choice="required")),
    ("tool_choice", ask(tools=[TOOL], tool_choice="any")),
    ("messages[0].role", say({"role": "tool", "tool_call_id": "a", "content": "4"})),
    ("tool_choice", ask(tool_choice="required")),
    ("tool_choice", ask(tool_choice={"type": "function", "function": {"name": "f"}})),
    ("functions", ask(functions=[{"name": "f"}])),
    ("function_call", ask(function_call={"name": "f"})),
    ("response_format", ask(response_format="json")),
    ("response_format.type", ask(response_format={"type": "structural_tag"})),
    ("response_format.json_schema", ask(response_format={"type": "json_schema"})),
    ("response_format.json_schema.schema", ask(response_format={"type": "json_schema", "json_schema": {"name": "a"}})),
    ("response_format", ask(response_format={"type": "json_object"}, speechlm={"mode": "text_audio", "text": "Hi."})),
    ("min_tokens", ask(response_format={"type": "json_object"}, min_tokens=1)),
    ("guided_json", ask(guided_json={"type": "object"})),
    ("structured_outputs", ask(structured_outputs={"choice": ["a"]})),
    ("best_of", ask(best_of=3)),
    ("echo", ask(echo=True)),
    ("suffix", ask(suffix="The end.")),
    ("extra_body", ask(extra_body={"vllm_xargs": {"mode": "text_audio"}})),
    ("ignore_eos", ask(ignore_eos=1)),
    ("ignore_eos", ask(ignore_eos=True, modalities=["text", "audio"])),
    ("min_tokens", ask(min_tokens=-1)),
    ("min_tokens", ask(min_tokens=3)),
    # ours, misspelt or misplaced
    ("vllm_xarg", ask(vllm_xarg={"mode": "text_audio"})),
    ("vllm-xargs", ask(**{"vllm-xargs": {"mode": "text_audio"}})),
    ("speech_lm", ask(speech_lm={"mode": "text_audio"})),
    ("SpeechLM", ask(SpeechLM={"mode": "text_audio"})),
    ("mode", ask(mode="text_audio")),
    ("cfg", ask(cfg=3.0)),
    ("audio_max_frames", ask(audio_max_frames=30)),
    ("modalities", ask(modalities="text")),
    ("modalities", ask(modalities=["audio"])),
    ("modalities[1]", ask(modalities=["text", "video"])),
    ("audio", ask(modalities=["text", "audio"], audio="wav")),
    ("audio.format", ask(modalities=["text", "audio"], audio={"voice": "alloy", "format": "midi"})),
    # the guide's object
    ("vllm_xargs", ask(vllm_xargs=[])),
    ("vllm_xargs", ask(vllm_xargs="text_audio")),
    ("vllm_xargs.colour", guides(colour="red")),
    ("vllm_xargs.mode", guides(mode="audio")),
    ("vllm_xargs.mode", guides(mode=1)),
    ("vllm_xargs.phase", guides(phase="audio")),
    ("vllm_xargs.text_temperature", guides(text_temperature=2.5)),
    ("vllm_xargs.audio_temperature", guides(audio_temperature="0.8")),
    ("vllm_xargs.audio_topk", guides(audio_topk=0)),
    ("vllm_xargs.audio_topk", guides(audio_topk=-2)),
    ("vllm_xargs.cfg", guides(cfg=0.5)),
    ("vllm_xargs.cfg", guides(cfg=20.5)),
    ("vllm_xargs.cfg", guides(cfg="3")),
    ("vllm_xargs.cfg", guides(cfg=True)),
    # our own
    ("speechlm", ask(speechlm=5)),
    ("speechlm.volume", ours(volume=3)),
    ("speechlm.mode", ours(mode="text")),
    ("speechlm.phase", ours(phase="speech")),
    ("speechlm.cfg", ours(cfg=0)),
    ("speechlm.text_temperature", ours(text_temperature=-1)),
    ("speechlm.audio_temperature", ours(audio_temperature=3)),
    ("speechlm.text_top_k", ours(text_top_k=0)),
    ("speechlm.audio_topk", ours(audio_topk=1.5)),
    ("speechlm.text_max_tokens", ours(text_max_tokens=0)),
    ("speechlm.audio_min_frames", ours(audio_min_frames=-1)),
    ("speechlm.audio_min_frames", ours(audio_min_frames=9, audio_max_frames=8)),
    ("speechlm.audio_max_frames", ours(audio_max_frames=HUGE)),
    ("speechlm.seed", ours(seed=1.5)),
    ("speechlm.return_ids", ours(return_ids="yes")),
    ("speechlm.text", ours(text="")),
    ("speechlm.text", ours(text=["Hello."])),
    ("speechlm.text", ask(speechlm={"text": "Said, but not aloud."})),
    # messages
    ("messages", {"max_tokens": 2}),
    ("messages", say()),
    ("messages", {"messages": "Hello."}),
    ("messages", {"messages": None}),
    ("messages", {"messages": USER}),
    ("messages[0]", say("Hello.")),
    ("messages[0]", say(None)),
    ("messages[0].role", say({"content": "Hello."})),
    ("messages[0].role", say({"role": "tool", "content": "Hello."})),
    ("messages[0].role", say({"role": "User", "content": "Hello."})),
    ("messages[0].role", say({"role": 5, "content": "Hello."})),
    ("messages[0].content", say({"role": "user"})),
    ("messages[0].content", say({"role": "user", "content": None})),
    ("messages[0].content", say({"role": "user", "content": ""})),
    ("messages[0].content", say({"role": "user", "content": []})),
    ("messages[0].content", say({"role": "user", "content": [{"type": "text", "text": ""}] * 2})),
    ("messages[0].content", say({"role": "user", "content": 5})),
    ("messages[0].content", say({"role": "user", "content": {"type": "text", "text": "Hello."}})),
    ("messages[1].content", say({"role": "system", "content": ""}, {"role": "user", "content": None})),
    ("messages[1].content", say({"role": "user"}, {"role": "assistant", "tool_calls": [{"id": "a"}]})),
    ("messages[0].content[0]", parts("Hello.")),
    ("messages[0].content[0]", parts({"text": "Hello."})),
    ("messages[0].content[0]", parts({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}})),
    ("messages[0].content[0].text", parts({"type": "text"})),
    ("messages[0].content[0].text", parts({"type": "text", "text": 5})),
    ("messages[0].content[0].input_audio", parts({"type": "input_audio"})),
    ("messages[0].content[0].input_audio.data", parts({"type": "input_audio", "input_audio": {"format": "wav"}})),
    ("messages[0].content[0].input_audio.format", heard(wav(clip(1, 0.1)), format=1)),
    ("messages[0].content[0].audio_url", parts({"type": "audio_url", "audio_url": "data:audio/wav;base64,AAAA"})),
    (
        "messages[0].content[0].type",
        say({"role": "assistant", "content": heard(wav(clip(1, 0.1)))["messages"][0]["content"]}),
    ),
    ("messages", say({"role": "user", "content": "word " * 9000})),
    ("messages", say(*[{"role": "user", "content": "word " * 1000}] * 9)),
    ("messages[0].content", say({"role": "user", "content": "word " * 200_000})),
    ("speechlm.text", ours(text="word " * 200_000)),
    # clips
    (AUDIO, heard(5)),
    (AUDIO, heard("")),
    (AUDIO, heard("not base64!")),
    (AUDIO, heard("data:audio/wav," + wav(clip(1, 0.1)))),
    (AUDIO, heard(in_base64(b"This is no audio at all."))),
    (AUDIO, heard(in_base64(base64.b64decode(wav(clip(1, 0.1)))[:30]))),
    (AUDIO, heard(float_wav())),
    (AUDIO, heard(wav(clip(1, 0.1)[:80]))),
    (AUDIO, heard(float_wav(*[0.0] * 800, float("nan")))),
    (AUDIO, heard(float_wav(*[0.0] * 800, float("inf")))),
    (AUDIO, heard(float_wav(*[1e30] * 800))),
    (AUDIO, heard(in_base64(b"\0" * 33), format="pcm16")),
    (URL, linked(5)),
    (URL, linked("")),
    (URL, linked("file:///etc/passwd")),
    (URL, linked("http://169.254.169.254/latest")),
    (URL, linked("https://example.com/clip.wav")),
    (URL, linked(f"https://{'x' * 100_000}/clip.wav")),
    (URL, linked("//example.com/clip.wav")),
    (URL, linked("/etc/passwd")),
    (URL, linked("data:audio/wav;base64,AAAA")),
    (URL, linked("data:audio/wav,AAAA")),
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
    """The error of a refusal, whose shape is checked."""
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
    """Whether the next request is answered."""
    return bool(client.chat(ask())["choices"])


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
    """Together with a minimum length, even that of another request, it would be an index out of bounds."""
    params = {"max_new_tokens": 2, "min_new_tokens": 1, "stop_token_ids": [2**31 - 1]}
    body: dict[str, Any] = {"text": "Hello.", "sampling_params": params}
    if several:
        body = {"text": ["Hello."] * 2, "sampling_params": [{"max_new_tokens": 2}, params]}
    error = refused(client.http.post("/generate", json=body, timeout=SECONDS))
    assert error["param"] == "sampling_params.stop_token_ids"
    assert answers(client)


def test_a_message_says_what_was_wrong_and_what_is_allowed(client: Client) -> None:
    error = refused(client.http.post(CHAT, json=guides(cfg=21)))
    assert error["message"] == "vllm_xargs.cfg: must be at most 20; got 21"
    assert error["param"] == "vllm_xargs.cfg"


def test_a_long_value_is_not_sent_back_whole(client: Client) -> None:
    error = refused(client.http.post(CHAT, json=ask(temperature="x" * 100_000)))
    assert len(error["message"]) < 300


def test_a_long_name_is_not_sent_back_whole(client: Client) -> None:
    assert refused(client.http.post(CHAT, json=ask(model="x" * 100_000)))["param"] == "model"
    refused(client.http.post(CHAT, json=ask(model="x" * 1000)), 404)
    error = refused(client.http.post(CHAT, json=heard(in_base64(b"no audio"), format="x" * 100_000)))
    assert error["message"].startswith(AUDIO)


def test_an_unknown_model_is_not_found(client: Client) -> None:
    error = refused(client.http.post(CHAT, json=ask(model="gpt-5")), 404)
    assert error["param"] == "model"
    assert error["code"] == "model_not_found"
    assert "gpt-5" in error["message"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", None])
def test_only_json_is_taken(content_type: str | None, client: Client) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    error = refused(client.http.post(CHAT, content=json.dumps(ask()), headers=headers), 415)
    assert "application/json" in error["message"]


def test_json_may_say_its_charset(client: Client) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert client.http.post(CHAT, content=json.dumps(ask()), headers=headers).status_code == 200


def test_a_body_that_declares_too_much_is_refused_unread(client: Client) -> None:
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


def test_names_of_control_ids_are_text(client: Client) -> None:
    def tokens(content: str) -> int:
        response = client.chat(say({"role": "user", "content": content}))
        return int(response["usage"]["prompt_tokens"])

    assert tokens("<|eos|>") - tokens("a") > 3


def test_odd_characters_are_text(client: Client) -> None:
    assert answers(client)
    for content in ("\x00\x07\x1b", "\ufeff", "\u202e", "🙂" * 50, " ", "\r\n"):
        assert client.chat(say({"role": "user", "content": content}))["choices"]


def test_hints_are_ignored_without_a_word(client: Client) -> None:
    body = ask(user="me", metadata={"a": "b"}, store=True, response_format={"type": "text"}, service_tier="auto")
    body |= {"tools": [], "tool_choice": "none", "logprobs": False, "top_logprobs": 0, "parallel_tool_calls": False}
    body["messages"] = [{**USER, "name": "somebody"}]
    assert set(message_of(client.chat(body))) == {"role", "content"}


def test_unknown_fields_are_ignored_and_named(client: Client) -> None:
    message = message_of(client.chat(ask(temprature=0.3, chat_template_kwargs={}, nothing=None)))
    assert message["speechlm"]["warnings"] == ["ignored: 'temprature', 'chat_template_kwargs'"]


def test_tools_that_are_not_to_be_called_are_ignored(client: Client) -> None:
    assert client.chat(ask(tools=[TOOL], tool_choice="none"))["choices"]


def test_nulls_are_as_good_as_nothing(client: Client) -> None:
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
    assert client.chat(ask(**dict.fromkeys(optional)))["choices"]


# Nothing is fetched


@contextmanager
def listening() -> Iterator[tuple[str, list[str]]]:
    """An HTTP server on the loopback: its URL, and who called."""
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
    with listening() as (url, callers):
        refused(client.http.post(CHAT, json=linked(url)))
        refused(client.http.post("/generate", json={"text": "Hello.", "audio_data": url}))
        assert answers(client)
    assert callers == []


def test_a_clip_is_still_heard_after_all_this(client: Client) -> None:
    assert message_of(client.chat(heard(wav(clip(1, 0.5)))))["content"]
