"""The bodies of requests, as in the usage guide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MODEL = "speechlm-qwen3-8b"

_WRITE = {"max_tokens": 4096, "temperature": 0.6, "top_k": 20, "stop_token_ids": [3]}
_UNDERSTAND = {"max_tokens": 4096, "temperature": 0.6, "stop_token_ids": [3]}
_SPEAK = {"max_tokens": 12000, "temperature": 0.8, "top_k": 20}
_XARGS = {
    "mode": "text_audio",
    "phase": "text",
    "text_temperature": 0.6,
    "audio_temperature": 0.8,
    "audio_topk": 20,
}


@dataclass(frozen=True)
class Task:
    """The kind of answer to request for every line.

    Attributes:
        name: of the task.
        speaks: whether answers have sound.
        cfg: guidance scale; 1 is none.
    """

    name: str
    speaks: bool = False
    cfg: float = 1.0

    def body(self, messages: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the body of POST /v1/chat/completions."""
        body: dict[str, Any] = {"model": MODEL, "messages": list(messages)}
        if self.speaks:
            xargs = _XARGS if self.cfg == 1.0 else {**_XARGS, "cfg": self.cfg}
            return {**body, **_SPEAK, "vllm_xargs": xargs}
        heard = any(isinstance(message["content"], list) for message in messages)
        return {**body, **(_UNDERSTAND if heard else _WRITE)}
