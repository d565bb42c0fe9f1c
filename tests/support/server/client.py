"""A client for running servers, and helpers that read its responses."""

from __future__ import annotations

import base64
import io
import json
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import soundfile
from prometheus_client.parser import text_string_to_metric_families

from .process import SECONDS, wait_for

Sample = tuple[str, tuple[tuple[str, str], ...]]

AT_ONCE = 64
CHAT = "/v1/chat/completions"


class Client:
    """Sends requests to one server; safe for use from several threads."""

    def __init__(self, url: str) -> None:
        limits = httpx.Limits(max_connections=AT_ONCE)
        # Reading the certificates, of which plain HTTP needs none, takes as long as many of the tests.
        self.http = httpx.Client(base_url=url, timeout=SECONDS, limits=limits, trust_env=False, verify=False)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def post(self, path: str, body: Any) -> Any:
        """Return the JSON response to a POST; fail unless the status is 200."""
        response = self.http.post(path, json=body)
        assert response.status_code == 200, f"{response.status_code}: {response.text}"
        return response.json()

    def chat(self, body: dict[str, Any]) -> Any:
        """Return one answer, not streamed."""
        return self.post(CHAT, body)

    def chat_at_once(self, bodies: Sequence[dict[str, Any]]) -> list[Any]:
        """Return the answers to concurrent requests."""
        return self._at_once(CHAT, bodies)

    def stream(self, body: dict[str, Any]) -> list[Any]:
        """Return the chunks of a streamed answer; fail unless it ends with [DONE]."""
        with self.http.stream("POST", CHAT, json={**body, "stream": True}) as response:
            response.read()
        assert response.status_code == 200, f"{response.status_code}: {response.text}"
        assert response.headers["content-type"].startswith("text/event-stream")
        *chunks, done = events_of(response.text)
        assert done == "[DONE]"
        return [json.loads(chunk) for chunk in chunks]

    def stream_at_once(self, bodies: Sequence[dict[str, Any]]) -> list[list[Any]]:
        """Return the chunks of concurrent streamed answers."""
        with ThreadPoolExecutor(AT_ONCE) as threads:
            return list(threads.map(self.stream, bodies))

    def generate(self, body: dict[str, Any]) -> Any:
        """Run one stage through SGLang's own route: ``output_ids``, and ``meta_info.frames`` for audio."""
        return self.post("/generate", body)

    def generate_at_once(self, bodies: Sequence[dict[str, Any]]) -> list[Any]:
        """Run concurrent stages."""
        return self._at_once("/generate", bodies)

    def _at_once(self, path: str, bodies: Sequence[dict[str, Any]]) -> list[Any]:
        with ThreadPoolExecutor(AT_ONCE) as threads:
            return list(threads.map(lambda body: self.post(path, body), bodies))

    def clear_cache(self) -> None:
        """Wait until the scheduler is idle, then empty its radix cache."""
        assert wait_for(lambda: self.http.post("/flush_cache").status_code == 200), "the scheduler did not become idle"

    def load(self) -> dict[str, Any]:
        """Return SGLang's load figures."""
        response = self.http.get("/v1/loads", params={"include": "core"})
        response.raise_for_status()
        loads: list[dict[str, Any]] = response.json()["loads"]
        return loads[0]

    def metrics(self) -> dict[Sample, float]:
        """Return the samples of the product's own metrics by name and sorted labels."""
        text = self.http.get("/metrics").text
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for sample in samples
            if sample.name.startswith("speechlm_")
        }


def open_request(url: str, body: dict[str, Any], path: str = CHAT, sent: float = 1.0) -> socket.socket:
    """Open a connection and send a request, or the share ``sent`` of it."""
    content = json.dumps(body).encode()
    address = urlsplit(url)
    assert address.hostname is not None
    head = f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
    whole = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
    connection = socket.create_connection((address.hostname, address.port))
    connection.sendall(whole[: round(len(whole) * sent)])
    return connection


def raw_answer(
    url: str, method: str, target: str, *headers: str, body: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    """Send a request exactly as written; return the response's status, headers (in lower case) and body."""
    address = urlsplit(url)
    assert address.hostname is not None
    lines = [f"{method} {target} HTTP/1.1", f"Host: {address.netloc}", *headers]
    if not any(header.lower().startswith("connection:") for header in headers):
        lines.append("Connection: close")
    with socket.create_connection((address.hostname, address.port), timeout=SECONDS) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        head, _, answer = connection.makefile("rb").read().partition(b"\r\n\r\n")
    first, *others = head.decode().split("\r\n")
    pairs = (line.partition(": ") for line in others)
    return int(first.split()[1]), {name.lower(): value for name, _, value in pairs}, answer


def raw_status(url: str, method: str, target: str, *headers: str, body: bytes = b"") -> int:
    """Send a request exactly as written and return the status of the response."""
    return raw_answer(url, method, target, *headers, body=body)[0]


def events_of(text: str) -> list[str]:
    """Return the data of server-sent events."""
    lines = [line for line in text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [line.removeprefix("data: ") for line in lines]


def deltas_of(chunks: Sequence[Any], index: int = 0) -> list[Any]:
    """Return the deltas of one choice of a stream."""
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return [choice["delta"] for choice in choices if choice["index"] == index]


def pcm_of(chunks: Sequence[Any], index: int = 0) -> np.ndarray:
    """Return the sound of one choice of a stream, joined as a client does: int16 [n]."""
    pieces = [delta["audio"].get("data", "") for delta in deltas_of(chunks, index) if "audio" in delta]
    return np.frombuffer(b"".join(base64.b64decode(piece) for piece in pieces), "<i2")


def refused(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    """Return the error of a response, which must have this status and OpenAI's form."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def message_of(response: Any) -> Any:
    """Return the message of a response's only choice."""
    (choice,) = response["choices"]
    return choice["message"]


def samples_of(message: Any) -> np.ndarray:
    """Return the WAV file of an answer as float32 [n]; fail unless file and message declare 16 kHz."""
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(message["audio"]["data"])), dtype="float32")
    assert rate == message["audio"]["sample_rate"] == 16000
    return samples


def assert_same_sound(found: np.ndarray, expected: np.ndarray, within: int = 1) -> None:
    """Fail unless two answers to one request sound the same: ``[n]`` int16, or float32 as from ``samples_of``.

    The codec's sums depend on which codes it decodes together, and so on timing: a sample may round the other way, and
    a resampled one may differ by more. ``within`` is the tolerance in int16 steps.
    """
    found, expected = (
        np.rint(samples * 32768.0 if samples.dtype == np.float32 else samples).astype(np.int32)
        for samples in (found, expected)
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=within)
