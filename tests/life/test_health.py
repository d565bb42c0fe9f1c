"""``/health`` reports what a server cannot do at present."""

from typing import Any

import psutil
from server import Client, Server, wait_for

CHAT = "/v1/chat/completions"
SPOKEN: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hello."}],
    "speechlm": {"mode": "text_audio", "text": "Hi.", "audio_max_frames": 12},
}


def test_a_hanging_codec_is_reported_and_replaced_while_audio_requests_are_refused(
    server: Server, client: Client
) -> None:
    codec = server.part("sglang_speechlm.codec.worker.main")
    codec.suspend()
    assert wait_for(lambda: client.http.get("/health").status_code == 503)
    assert "the codec process" in client.http.get("/health").json()["error"]["message"]
    refused = client.http.post(CHAT, json=SPOKEN)
    assert (refused.status_code, refused.json()["error"]["type"]) == (503, "server_error")
    assert wait_for(lambda: client.http.get("/health").status_code == 200)
    assert client.http.post(CHAT, json=SPOKEN).status_code == 200
    assert not codec.is_running() or codec.status() == psutil.STATUS_ZOMBIE
