"""The warm-up: a server is ready when a request in each mode has succeeded."""

from __future__ import annotations

import base64
import logging
import time
from typing import Any

import httpx
import numpy as np

from sglang_speechlm.codec import encode_wav
from sglang_speechlm.program.engine import Engine
from sglang_speechlm.server.lifetime.gate import PASS_HEADER, warm_up_pass
from sglang_speechlm.server.lifetime.life import Life

logger = logging.getLogger(__name__)

_START_SECONDS = 120
_ANSWER_SECONDS = 600
_WARM_PADS = 4096
_TEXT_IDS = 2
_FRAMES = 12
"""Enough for a piece of sound."""


def warm_up(server_args: Any, life: Life) -> bool:
    """Send the server a request in each mode over HTTP; end the server if one fails.

    This also computes the pads with which every guided request begins, and which then stay in the radix cache.

    Returns:
        Whether all of them succeeded.
    """
    from sglang_speechlm.sglang_hooks import http

    state = http.state()
    manager = state.tokenizer_manager
    engine = Engine(manager, state.scheduler_info["max_total_num_tokens"], manager.model_config.hf_config.num_stream)
    requests = list(_REQUESTS)
    if engine.can_guide:
        requests += [_pads(min(_WARM_PADS, engine.capacity(guided=True) // 4)), _GUIDED]
    headers = {PASS_HEADER: warm_up_pass()}
    if server_args.api_key:
        headers["Authorization"] = f"Bearer {server_args.api_key}"
    try:
        # This process sends requests to itself, at an address that its certificate may not name.
        with httpx.Client(base_url=server_args.url(), headers=headers, verify=False, trust_env=False) as client:
            _wait_for_http(client)
            for name, path, body in requests:
                answer = client.post(path, json=body, timeout=_ANSWER_SECONDS)
                if answer.status_code != 200:
                    raise RuntimeError(f"the {name} answer failed with {answer.status_code}: {answer.text}")
    except (RuntimeError, httpx.HTTPError) as error:
        logger.error("Warm-up failed: %s", error)
        life.warm_up_failed()
        return False
    http.mark_up()
    return True


def _wait_for_http(client: httpx.Client) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            client.get("/model_info", timeout=5).raise_for_status()
            return
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


Warming = tuple[str, str, dict[str, Any]]
"""Name, path and body of a request."""


def _chat(name: str, content: Any, limit: int, **more: Any) -> Warming:
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": limit, **more}
    return name, "/v1/chat/completions", body


def _pads(count: int) -> Warming:
    return "pads", "/generate", {"input_ids": [0] * count, "sampling_params": {"max_new_tokens": 1}}


def _tone() -> str:
    samples = np.sin(np.arange(8000, dtype=np.float32) * 0.2) * np.float32(0.1)
    return base64.b64encode(encode_wav(samples, 16000)).decode()


_REQUESTS = (
    _chat("text", "Hello", _TEXT_IDS),
    _chat("spoken", "Hello", _FRAMES, speechlm={"mode": "text_audio", "text": "Hello"}),
    _chat("heard", [{"type": "input_audio", "input_audio": {"data": _tone(), "format": "wav"}}], _TEXT_IDS),
)
_GUIDED = _chat("guided", "Hello", _FRAMES, speechlm={"mode": "text_audio", "text": "Hello", "cfg": 2.0})
