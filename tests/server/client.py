"""What tests ask of a running server."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import soundfile

from .process import wait_for

ANSWER_SECONDS = 300
IDLE_SECONDS = 60
AT_ONCE = 64


class Client:
    """Speaks to one server. Usable from several threads."""

    def __init__(self, url: str) -> None:
        limits = httpx.Limits(max_connections=AT_ONCE)
        self.http = httpx.Client(base_url=url, timeout=ANSWER_SECONDS, limits=limits, trust_env=False)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def post(self, path: str, body: Any) -> Any:
        """The JSON that a POST gives; anything but a 200 fails the test."""
        response = self.http.post(path, json=body)
        assert response.status_code == 200, f"{response.status_code}: {response.text}"
        return response.json()

    def chat(self, body: dict[str, Any]) -> Any:
        """One answer, not streamed."""
        return self.post("/v1/chat/completions", body)

    def chat_at_once(self, bodies: Sequence[dict[str, Any]]) -> list[Any]:
        """The answers to requests that are all sent at the same time."""
        return self._at_once("/v1/chat/completions", bodies)

    def generate(self, body: dict[str, Any]) -> Any:
        """One stage by itself, through SGLang's own route: ``output_ids``, and ``meta_info.frames`` for audio."""
        return self.post("/generate", body)

    def generate_at_once(self, bodies: Sequence[dict[str, Any]]) -> list[Any]:
        """Stages that are all sent at the same time."""
        return self._at_once("/generate", bodies)

    def _at_once(self, path: str, bodies: Sequence[dict[str, Any]]) -> list[Any]:
        with ThreadPoolExecutor(AT_ONCE) as threads:
            return list(threads.map(lambda body: self.post(path, body), bodies))

    def forget(self) -> None:
        """Wait until the scheduler has nothing left to do, then empty its radix cache."""
        assert wait_for(lambda: self.http.post("/flush_cache").status_code == 200, IDLE_SECONDS), "it never got idle"

    def load(self) -> dict[str, Any]:
        """SGLang's load figures."""
        response = self.http.get("/v1/loads", params={"include": "core"})
        response.raise_for_status()
        loads: list[dict[str, Any]] = response.json()["loads"]
        return loads[0]


def message_of(response: Any) -> Any:
    """The message of a response's only choice."""
    (choice,) = response["choices"]
    return choice["message"]


def samples_of(message: Any) -> np.ndarray:
    """The answer's WAV as float32 [n]; it must be at 16 kHz, as the message says too."""
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(message["audio"]["data"])), dtype="float32")
    assert rate == message["audio"]["sample_rate"] == 16000
    return samples
