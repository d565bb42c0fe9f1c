"""A server whose operator extends a preset: what it asks the model by it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import POOL
from server import SECONDS, Client, assert_same_sound, message_of, samples_of, serving

SYSTEM = "Perform the described scene."
GREEDY: dict[str, Any] = {"text_temperature": 0.0, "audio_temperature": 0.0, "audio_max_frames": 30}
SCENE = "A calm man in a quiet room says: 'Good day.' He is tired."


@pytest.fixture(scope="module")
def client(served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("preset")
    preset = folder / "own.json"
    preset.write_text(json.dumps({"extends": "bagpiper-sft", "system": {"generation": SYSTEM}}))
    options = (*POOL, "--preset", str(preset))
    with serving(served_checkpoint, folder / "log", *options) as server, Client(server.url) as speaking:
        yield speaking


def chat(client: Client, *messages: dict[str, str], **speechlm: Any) -> Any:
    return client.chat({"messages": list(messages), "speechlm": {**GREEDY, "return_ids": True, **speechlm}})


def test_speech_is_a_scene_that_the_model_describes_before_it_speaks(client: Client) -> None:
    body = {
        "input": "Good day.",
        "voice": "A calm man in a quiet room",
        "instructions": "He is tired.",
        "response_format": "pcm",
        "speechlm": GREEDY,
    }
    response = client.http.post("/v1/audio/speech", json=body, timeout=SECONDS)
    scene = chat(client, {"role": "user", "content": SCENE}, mode="text_audio")
    assert message_of(scene)["content"]
    assert_same_sound(np.frombuffer(response.content, "<i2"), samples_of(message_of(scene)))


def test_a_spoken_chat_without_a_system_turn_has_the_presets(client: Client) -> None:
    user = {"role": "user", "content": "Good day."}
    system = {"role": "system", "content": SYSTEM}
    bare = chat(client, user, mode="text_audio")
    whole = chat(client, system, user, mode="text_audio")
    assert message_of(bare)["speechlm"]["codes"] == message_of(whole)["speechlm"]["codes"]
    assert bare["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]


def test_a_written_chat_has_no_system_turn_of_speech(client: Client) -> None:
    user = {"role": "user", "content": "Good day."}
    spoken, written = chat(client, user, mode="text_audio"), chat(client, user)
    assert written["usage"]["prompt_tokens"] < spoken["usage"]["prompt_tokens"]
