"""A streamed answer from its listener's point of view: when pieces arrive, and whether playback must wait for them."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

_SAMPLE_BYTES = 2


@dataclass
class Playback:
    """One streamed answer.

    Attributes:
        sent: when the request was sent; all times are in seconds of a monotonic clock.
        texts: when each piece of the text arrived.
        pieces: when each piece of the sound arrived, and its seconds.
    """

    sent: float
    texts: list[float] = field(default_factory=list)
    pieces: list[tuple[float, float]] = field(default_factory=list)

    @property
    def audio_seconds(self) -> float:
        """Length of the sound in seconds."""
        return sum(seconds for _, seconds in self.pieces)

    @property
    def first_text(self) -> float:
        """Seconds from the request to the first piece of the text."""
        return self.texts[0] - self.sent

    @property
    def first_audio(self) -> float:
        """Seconds from the last piece of the text to the first piece of the sound."""
        return self.pieces[0][0] - self.texts[-1]

    @property
    def gaps(self) -> list[float]:
        """Seconds between pieces of the sound."""
        return [later - earlier for (earlier, _), (later, _) in zip(self.pieces, self.pieces[1:], strict=False)]

    @property
    def lateness(self) -> float:
        """The longest delay of the sound for a listener who plays from the first piece on; 0 if there was none."""
        start = self.pieces[0][0]
        played = late = 0.0
        for arrival, seconds in self.pieces:
            late = max(late, arrival - start - played)
            played += seconds
        return late

    @property
    def real_time_factor(self) -> float:
        """Seconds from the end of the text to the last piece, per second of sound; below 1 is faster than speech."""
        return (self.pieces[-1][0] - self.texts[-1]) / self.audio_seconds


async def play(client: httpx.AsyncClient, body: dict[str, Any]) -> Playback:
    """Request a streamed answer and read it as it arrives.

    Raises:
        RuntimeError: if the server refuses it or the stream breaks off.
    """
    playback = Playback(time.monotonic())
    rate = 0
    async with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response:
        if response.status_code != 200:
            raise RuntimeError(f"{response.status_code}: {(await response.aread()).decode()}")
        async for line in response.aiter_lines():
            if not line or line == "data: [DONE]":
                continue
            now = time.monotonic()
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                raise RuntimeError(chunk["error"]["message"])
            for choice in chunk["choices"]:
                delta = choice["delta"]
                audio = delta.get("audio", {})
                if delta.get("content"):
                    playback.texts.append(now)
                rate = audio.get("sample_rate", rate)
                if "data" in audio:
                    playback.pieces.append((now, len(base64.b64decode(audio["data"])) / _SAMPLE_BYTES / rate))
    if not playback.pieces:
        raise RuntimeError("the answer had no sound")
    return playback
