"""Streamed spoken answers equal the complete file, sample by sample."""

import asyncio
import base64
import io
import json
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import openai
import pytest
import soundfile
from server import (
    SECONDS,
    Client,
    Server,
    assert_same_sound,
    deltas_of,
    events_of,
    message_of,
    pcm_of,
    samples_of,
    wait_for,
)

CODEC_RATE = 16_000
UNREAD = {"n": 2, "frames": 1100, "rate": 48_000}
"""More sound of each choice than the server holds for a reader. A late decoder makes pieces of 128 frames, of which
four wait unread, one waits for its place among the choices, one has it, and one is being sent; the buffers of
``slow_reader``'s connection hold 0.1 MB, about 50 frames."""


def spoken_body(number: int = 0, *, frames: int | None = None, **speechlm: Any) -> dict[str, Any]:
    """Return the body of a sampled spoken answer, with exactly ``frames`` frames of codes if given."""
    fields = {"mode": "text_audio", "text": "On and on.", "seed": number, "return_ids": True, **speechlm}
    if frames is not None:
        fields |= {"audio_min_frames": frames + 7, "audio_max_frames": frames + 7}  # seven more, for the delay
    return {
        "messages": [{"role": "user", "content": f"Say sentence {number}."}],
        "sample_rate": CODEC_RATE,  # resampling would spread the rounding of one sample to others
        "speechlm": fields,
    }


def assert_same_answer(chunks: Sequence[Any], file: Any) -> None:
    """Fail unless a stream equals the complete answer to the same request."""
    message, deltas = message_of(file), deltas_of(chunks)
    assert deltas[-1]["speechlm"]["codes"] == message["speechlm"]["codes"]
    assert "".join(delta.get("content", "") for delta in deltas) == message["content"]
    assert_same_sound(pcm_of(chunks), samples_of(message))


def streams_and_files(client: Client, bodies: Sequence[dict[str, Any]]) -> list[tuple[list[Any], Any]]:
    """Return the chunks and the complete answer of each request, all generated at once."""
    with ThreadPoolExecutor() as threads:
        files = threads.submit(client.chat_at_once, bodies)
        return list(zip(client.stream_at_once(bodies), files.result(), strict=True))


def test_a_stream_equals_the_file_generated_later(client: Client) -> None:
    body = spoken_body(3, cfg=3.0)
    assert_same_answer(client.stream(body), client.chat(body))


def test_concurrent_streams_equal_the_files(client: Client) -> None:
    bodies = [spoken_body(number, cfg=[1.0, 3.0][number % 2]) for number in range(8)]
    for chunks, file in streams_and_files(client, bodies):
        assert_same_answer(chunks, file)


LENGTHS = list(product([1, 8, 200], [1.0, 3.0]))
"""Numbers of frames, of which the codec keeps fewer than 200, with guidance scales."""


@pytest.fixture(scope="module")
def of_every_length(server: Server) -> dict[tuple[int, float], tuple[list[Any], Any]]:
    with Client(server.url) as client:
        answers = streams_and_files(client, [spoken_body(frames=frames, cfg=cfg) for frames, cfg in LENGTHS])
    return dict(zip(LENGTHS, answers, strict=True))


@pytest.mark.parametrize(("frames", "cfg"), LENGTHS)
def test_streams_of_every_length_equal_the_files(
    frames: int, cfg: float, of_every_length: dict[tuple[int, float], tuple[list[Any], Any]]
) -> None:
    chunks, file = of_every_length[frames, cfg]
    assert_same_answer(chunks, file)
    assert len(pcm_of(chunks)) == frames * 320


def test_a_stream_has_openais_order(client: Client) -> None:
    chunks = client.stream({**spoken_body(frames=100), "stream_options": {"include_usage": True}})
    *chunks, usage = chunks
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens_details"]["audio_tokens"] == 107
    first, *deltas, end = deltas_of(chunks)
    assert first == {"role": "assistant", "content": ""}
    assert [*end] == ["speechlm"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    kinds = [*("content" if "content" in delta else "+".join(delta["audio"]) for delta in deltas)]
    texts, sounds = kinds.count("content"), kinds.count("data")
    assert kinds == ["content"] * texts + ["id+transcript+sample_rate"] + ["data"] * sounds + ["expires_at"]
    assert texts > 0
    assert sounds > 2
    assert deltas[texts]["audio"]["transcript"] == "On and on."
    assert deltas[texts]["audio"]["sample_rate"] == CODEC_RATE


def test_a_stream_has_and_declares_openais_sample_rate(client: Client) -> None:
    body = {name: value for name, value in spoken_body(frames=25).items() if name != "sample_rate"}
    with client.http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response:
        assert response.headers["x-audio-sample-rate"] == "24000"
        *events, _ = events_of(response.read().decode())
    chunks = [json.loads(event) for event in events]
    head = next(delta["audio"] for delta in deltas_of(chunks) if "audio" in delta)
    assert head["sample_rate"] == 24_000
    assert len(pcm_of(chunks)) == 25 * 480


def test_a_complete_answer_has_the_requested_sample_rate(client: Client) -> None:
    body = {**spoken_body(frames=25), "sample_rate": 44_100, "audio": {"voice": "alloy", "format": "pcm16"}}
    audio = message_of(client.chat(body))["audio"]
    assert audio["sample_rate"] == 44_100
    assert len(base64.b64decode(audio["data"])) == 2 * 44_100 // 2


@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_a_seed_gives_the_same_sound_streamed_and_after_retractions(
    cfg: float, client: Client, metered: Server
) -> None:
    """``metered`` retracts rows every twenty steps."""
    bodies = [spoken_body(number, frames=24, cfg=cfg) for number in range(4)]
    expected = [message_of(answer) for answer in client.chat_at_once(bodies)]
    before = metered.output().count("#retracted_reqs")
    with Client(metered.url) as retracting:
        answers = streams_and_files(retracting, bodies)
    assert metered.output().count("#retracted_reqs") > before
    for plain, (chunks, file) in zip(expected, answers, strict=True):
        assert message_of(file)["speechlm"]["codes"] == plain["speechlm"]["codes"]
        assert_same_sound(samples_of(message_of(file)), samples_of(plain))
        assert_same_sound(pcm_of(chunks), samples_of(plain))


def test_a_reader_that_stops_delays_only_its_own_stream(server: Server, client: Client) -> None:
    """All of its frames are generated, its sound waits in the codec, others are served, and nothing is lost."""
    body = {**spoken_body(frames=UNREAD["frames"]), "sample_rate": UNREAD["rate"]}
    with slow_reader(server, {**body, "n": UNREAD["n"], "stream": True}) as reader:
        audio = message_of(client.chat(body))["audio"]  # while the streams are generated
        assert wait_for(lambda: sound_is_waiting(client))
        body = spoken_body(7, frames=30, cfg=2.0)
        assert_same_answer(client.stream(body), client.chat(body))
        assert sound_is_waiting(client)
        received = read_slowly(reader)
    head, _, content = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    *events, done = events_of(unchunked(content).decode())
    assert done == "[DONE]"
    chunks = [json.loads(event) for event in events]
    choices = [pcm_of(chunks, index) for index in range(UNREAD["n"])]
    assert [len(samples) for samples in choices] == [UNREAD["frames"] * UNREAD["rate"] // 50] * UNREAD["n"]
    first, rate = soundfile.read(io.BytesIO(base64.b64decode(audio["data"])), dtype="int16")
    assert rate == UNREAD["rate"]
    assert_same_sound(choices[0], first, within=4)
    assert wait_for(lambda: not client.metrics()["speechlm_codec_slots", ()])


def slow_reader(server: Server, body: dict[str, Any]) -> socket.socket:
    """Send a request on a connection with small buffers on both sides, and read nothing."""
    address = urlsplit(server.url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)  # Linux sizes the sender's buffer by it
    connection.settimeout(SECONDS)
    assert address.hostname is not None
    assert address.port is not None
    connection.connect((address.hostname, address.port))
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Connection: close\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
    return connection


def sound_is_waiting(client: Client) -> bool:
    """Return whether all frames are generated while the codec still holds sound."""
    metrics = client.metrics()
    return metrics["speechlm_stages_running", ()] == 0 and metrics["speechlm_codec_slots", ()] > 0


def read_slowly(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def unchunked(content: bytes) -> bytes:
    """Decode a body in HTTP/1.1's chunked transfer coding (RFC 9112, 7.1)."""
    coded, pieces = io.BytesIO(content), []
    while size := coded.readline():
        pieces.append(coded.read(int(size, 16)))
        coded.readline()
    return b"".join(pieces)


def test_the_stock_asynchronous_client_plays_a_stream(server: Server, client: Client) -> None:
    body = spoken_body(3, frames=25)
    fields = body["speechlm"]

    async def play() -> tuple[str, bytes]:
        text, sound = "", b""
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as stock:
            async for chunk in await stock.chat.completions.create(
                model="speechlm-qwen3-8b",
                messages=body["messages"],
                modalities=["text", "audio"],
                audio={"voice": "alloy", "format": "pcm16"},
                stream=True,
                extra_body={"speechlm": fields, "sample_rate": CODEC_RATE},
            ):
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                    audio = (choice.delta.model_extra or {}).get("audio", {})
                    sound += base64.b64decode(audio.get("data", ""))
        return text, sound

    text, sound = asyncio.run(play())
    message = message_of(client.chat(body))
    assert text == message["content"]
    assert_same_sound(np.frombuffer(sound, "<i2"), samples_of(message))
