"""Ready means that an answer in each mode has worked."""

from __future__ import annotations

import base64
import logging
import os
import time
from typing import Any

import httpx
import numpy as np

from sglang_speechlm.codec import encode_wav

logger = logging.getLogger(__name__)

_START_SECONDS = 120
_ANSWER_SECONDS = 600


def warm_up(server_args: Any) -> bool:
    """Ask the server, over HTTP, for a text, a spoken text and an answer about a clip; end it if one fails.

    Returns:
        Whether all of them worked.
    """
    from sglang.srt.entrypoints import http_server
    from sglang.srt.managers.tokenizer_manager import ServerStatus
    from sglang.srt.utils import kill_process_tree

    headers = {"Authorization": f"Bearer {server_args.api_key}"} if server_args.api_key else {}
    try:
        with httpx.Client(
            base_url=server_args.url(), headers=headers, verify=bool(server_args.ssl_verify()), trust_env=False
        ) as client:
            _wait_for_http(client)
            for name, body in _BODIES.items():
                answer = client.post("/v1/chat/completions", json=body, timeout=_ANSWER_SECONDS)
                if answer.status_code != 200:
                    raise RuntimeError(f"the {name} answer failed with {answer.status_code}: {answer.text}")
    except (RuntimeError, httpx.HTTPError) as error:
        logger.error("Warm-up failed, stopping: %s", error)
        kill_process_tree(os.getpid())
        return False
    http_server._global_state.tokenizer_manager.server_status = ServerStatus.Up
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


def _chat(content: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 4, **more}


def _tone() -> str:
    samples = np.sin(np.arange(8000, dtype=np.float32) * 0.2) * np.float32(0.1)
    return base64.b64encode(encode_wav(samples, 16000)).decode()


_BODIES: dict[str, dict[str, Any]] = {
    "text": _chat("Hello"),
    "spoken": _chat("Hello", max_tokens=12, speechlm={"mode": "text_audio", "text": "Hello"}),
    "audio": _chat([{"type": "input_audio", "input_audio": {"data": _tone(), "format": "wav"}}]),
}
