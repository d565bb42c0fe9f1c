"""Warnings over HTTP: in JSON under ``speechlm``, and in a response header."""

import base64
import json
from typing import Any

from server import SECONDS, Client, clip, deltas_of, message_of, wav
from server.client import CHAT

from sglang_speechlm.server.edge.warnings import WARNINGS_HEADER

LONG = {"type": "input_audio", "input_audio": {"data": wav(clip(1, 31.0)), "format": "wav"}}
LONG_CLIP_BODY = {"messages": [{"role": "user", "content": [LONG]}], "max_tokens": 2}


def header_of(response: Any) -> list[str]:
    warnings: list[str] = json.loads(response.headers[WARNINGS_HEADER])
    return warnings


def test_a_complete_answer_has_the_warnings_in_its_body_and_a_header(client: Client) -> None:
    response = client.http.post(CHAT, json=LONG_CLIP_BODY, timeout=SECONDS)
    warnings = message_of(response.json())["speechlm"]["warnings"]
    assert "cut to 30 s" in warnings[0]
    assert header_of(response) == warnings


def test_warnings_about_the_answer_are_in_the_header_too(client: Client) -> None:
    body = {"messages": [{"role": "user", "content": "Hi."}], "max_tokens": 2, "modalities": ["text", "audio"], "n": 2}
    response = client.http.post(CHAT, json=body, timeout=SECONDS)
    (warning,) = header_of(response)
    assert "no audio" in warning


def test_a_stream_has_the_warnings_in_its_last_delta_and_a_header(client: Client) -> None:
    with client.http.stream("POST", CHAT, json={**LONG_CLIP_BODY, "stream": True}, timeout=SECONDS) as response:
        response.read()
    assert "cut to 30 s" in header_of(response)[0]
    chunks = [json.loads(line[6:]) for line in response.text.split("\n\n")[:-2]]
    assert deltas_of(chunks)[-1]["speechlm"]["warnings"] == header_of(response)


def test_an_answer_without_warnings_has_no_header(client: Client) -> None:
    body = {"messages": [{"role": "user", "content": "Hi."}], "max_tokens": 2}
    assert WARNINGS_HEADER not in client.http.post(CHAT, json=body, timeout=SECONDS).headers


def test_a_transcription_as_text_has_the_warnings_in_a_header(client: Client) -> None:
    files = {"file": ("speech.wav", base64.b64decode(wav(clip(22, 1.0))) + bytes(1000))}
    response = client.http.post(
        "/v1/audio/transcriptions", files=files, data={"response_format": "text"}, timeout=SECONDS
    )
    assert response.status_code == 200
    assert "the WAV header states" in header_of(response)[0]
