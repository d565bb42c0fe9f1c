"""Recorded requests of applications, replayed byte by byte, get the answers that the applications expect."""

from __future__ import annotations

import base64
import http.client
import json
import socket
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from recorded import recorded_file
from server import SECONDS, Server, clip, events_of, wav

REPLAYS = sorted((Path(__file__).parents[1] / "support" / "replays").glob("*.http"))
CLIP = clip(31, 0.8)
MEDIA_TYPES = {"mp3": "audio/mpeg", "wav": "audio/wav", "pcm": "audio/pcm"}


def send_replay(replay: Path, url: str) -> tuple[str, bytes, http.client.HTTPResponse, bytes]:
    """Replay a recorded request; return its path and body, the response and its content."""
    head, _, body = replay.read_bytes().partition(b"\r\n\r\n")
    sound = recorded_file("webm", CLIP) if b'.webm"' in body else base64.b64decode(wav(CLIP))
    body = body.replace(b"8\r\n{{clip}}", b"%x\r\n{{clip}}" % len(sound)).replace(b"{{clip}}", sound)
    line, *headers = head.decode().split("\r\n")
    address = urlsplit(url)
    assert address.hostname is not None
    sent_headers = [
        text for text in headers if text.lower().partition(":")[0] not in ("host", "content-length", "connection")
    ]
    sent_headers += [f"Host: {address.netloc}", "Connection: close"]
    if not any(text.lower().startswith("transfer-encoding") for text in headers):
        sent_headers.append(f"Content-Length: {len(body)}")
    with socket.create_connection((address.hostname, address.port), timeout=SECONDS) as connection:
        connection.sendall("\r\n".join([line, *sent_headers, "", ""]).encode() + body)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return line.split()[1], body, response, response.read()


def assert_chat_is_answered(body: dict[str, Any], answer: bytes) -> None:
    if body.get("stream"):
        *chunks, done = events_of(answer.decode())
        assert done == "[DONE]"
        parsed = [json.loads(chunk) for chunk in chunks]
        assert not any("error" in chunk for chunk in parsed)
        if body.get("stream_options", {}).get("include_usage"):
            assert parsed[-1]["usage"]["completion_tokens"] > 0
        deltas = [choice["delta"] for chunk in parsed for choice in chunk["choices"]]
        names = [call["function"].get("name") for delta in deltas for call in delta.get("tool_calls", [])]
    else:
        (choice,) = json.loads(answer)["choices"]
        names = [call["function"]["name"] for call in choice["message"].get("tool_calls", [])]
        if "response_format" in body:
            assert isinstance(json.loads(choice["message"]["content"]), dict)
    if body.get("tool_choice", "auto") not in ("auto", "none"):
        assert names[0] in [tool["function"]["name"] for tool in body["tools"]]


@pytest.fixture(scope="module")
def replayed(metered: Server) -> dict[Path, Future[tuple[str, bytes, http.client.HTTPResponse, bytes]]]:
    """Return the outcomes of ``send_replay`` for all recorded requests, sent at once."""
    with ThreadPoolExecutor() as threads:
        return {replay: threads.submit(send_replay, replay, metered.url) for replay in REPLAYS}


@pytest.mark.parametrize("replay", REPLAYS, ids=lambda replay: replay.stem)
def test_a_recorded_request_gets_the_expected_answer(
    replay: Path, replayed: dict[Path, Future[tuple[str, bytes, http.client.HTTPResponse, bytes]]]
) -> None:
    path, body, response, answer = replayed[replay].result()
    assert response.status == 200, answer
    match path.removeprefix("/v1"):
        case "/chat/completions":
            assert_chat_is_answered(json.loads(body), answer)
        case "/audio/speech":
            assert response.headers["content-type"] in (
                MEDIA_TYPES[json.loads(body).get("response_format", "mp3")],
                "text/event-stream; charset=utf-8",
            )
            assert answer
        case "/audio/transcriptions":
            assert isinstance(json.loads(answer)["text"], str)
        case "/audio/voices":
            assert all({"id", "name"} <= voice.keys() for voice in json.loads(answer)["voices"])
        case "/audio/models":
            assert all({"id"} <= model.keys() for model in json.loads(answer)["models"])
        case _:
            assert all({"id", "object", "created"} <= model.keys() for model in json.loads(answer)["data"])
