"""What a release decides where a request does not say: its decoding on every way in, and its voices and plans."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sglang as sgl
import soundfile
from browser import CHROMIUM, browser_page, json_of
from conftest import POOL, SPEC
from playwright.sync_api import Locator, Page, expect
from safetensors.torch import load_file, save_file
from server import SECONDS, Client, Server, assert_same_sound, clip, message_of, samples_of, serving

from sglang_speechlm import frontend
from sglang_speechlm.checkpoint import build_checkpoint
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.tokenizer import TextTokenizer

CFG, LEAST, MOST, MOST_TEXT = 2.5, 40, 60, 16
DECODING: dict[str, Any] = {
    "audio_cfg": CFG,
    "audio_min_frames": LEAST,
    "audio_max_frames": MOST,
    "text_max_tokens": MOST_TEXT,
    "decoding_source": "inference.yaml",
}
VOICES = {"anna": "An old woman on a windy pier", "alloy": "A boy in a cave"}
GREEDY: dict[str, Any] = {"text_temperature": 0, "audio_temperature": 0}
QUESTION = {"role": "user", "content": "Tell me about the sea."}
_EAGER = 2.5
"""How many times wider the logit of </think> varies than another id's: the model closes a plan soon."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that thinks, with decoding of its own."""
    directory = build_checkpoint(tmp_path_factory.mktemp("thinking") / "small", spec=SPEC)
    config = SpeechLMConfig.from_pretrained(directory)
    (close,) = TextTokenizer.from_pretrained(directory, config).encode("</think>")
    tensors = load_file(directory / "model.safetensors")
    tensors["lm_head.weight"][close] *= _EAGER
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    fields = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(fields | DECODING))
    (directory / "preset.json").write_text('{"extends": "bagpiper-tts"}')
    return directory


@pytest.fixture(scope="module")
def server(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("released")
    (folder / "voices.json").write_text(json.dumps(VOICES))
    options = (*POOL, "--voices", str(folder / "voices.json"))
    with serving(checkpoint, folder / "log", *options) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as speaking:
        yield speaking


def spoken(client: Client, *messages: Any, top: dict[str, Any] | None = None, **speechlm: Any) -> Any:
    """A spoken answer of the chat route."""
    ours = {**GREEDY, "mode": "text_audio", "return_ids": True, **speechlm}
    return client.chat({"messages": list(messages) or [QUESTION], "speechlm": ours, **(top or {})})


def frames(response: Any) -> int:
    return int(response["usage"]["completion_tokens_details"]["audio_tokens"])


def said_aloud(client: Client, body: dict[str, Any]) -> np.ndarray:
    response = client.http.post(
        "/v1/audio/speech",
        json={"input": "Good day.", "response_format": "pcm", "sample_rate": 16000, **body},
        timeout=SECONDS,
    )
    assert response.status_code == 200, response.text
    return np.frombuffer(response.content, "<i2")


# Decoding


def test_what_applies_and_where_it_comes_from_is_in_the_log_and_the_servers_info(
    client: Client, server: Server
) -> None:
    decoding = client.http.get("/server_info").json()["decoding"]
    assert decoding["source"] == "inference.yaml"
    assert decoding["audio"] == {
        "temperature": 0.8, "top_k": 20, "cfg": CFG, "min_frames": LEAST, "max_frames": MOST,
    }  # fmt: skip
    assert decoding["text"]["max_tokens"] == MOST_TEXT
    assert str(decoding) in server.output()


def test_the_least_and_most_steps_hold_where_a_request_names_no_max_tokens(client: Client) -> None:
    response = spoken(client)
    assert len(message_of(response)["speechlm"]["text_ids"]) <= MOST_TEXT
    assert LEAST <= frames(response) <= MOST
    written = client.chat({"messages": [QUESTION], "logit_bias": {"2": -100, "3": -100}, "temperature": 0})
    assert written["usage"]["completion_tokens"] == MOST_TEXT
    assert written["choices"][0]["finish_reason"] == "length"


def test_the_most_steps_do_not_hold_beside_max_tokens_and_the_least_do(client: Client) -> None:
    bias = {"2": -100, "3": -100}
    body = {"messages": [QUESTION], "logit_bias": bias, "temperature": 0, "max_tokens": 50}
    assert client.chat(body)["usage"]["completion_tokens"] == 50
    response = spoken(client, top={"max_tokens": 4000})
    assert frames(response) >= LEAST


def test_a_chat_without_cfg_is_unguided(client: Client) -> None:
    codes = message_of(spoken(client))["speechlm"]["codes"]
    assert codes == message_of(spoken(client, cfg=1))["speechlm"]["codes"]
    assert codes != message_of(spoken(client, cfg=CFG))["speechlm"]["codes"]


def test_a_request_of_the_guide_without_cfg_is_unguided(client: Client) -> None:
    guides = {"mode": "text_audio", "phase": "text", "text_temperature": 0, "audio_temperature": 0}
    response = client.chat({"messages": [QUESTION], "vllm_xargs": guides, "speechlm": {"return_ids": True}})
    assert message_of(response)["speechlm"]["codes"] == message_of(spoken(client))["speechlm"]["codes"]


def test_fields_of_a_request_win(client: Client) -> None:
    assert frames(spoken(client, audio_min_frames=1, audio_max_frames=12)) <= 12
    long = spoken(client, audio_min_frames=70, audio_max_frames=75)
    assert 70 <= frames(long) <= 75


def test_the_speech_route_has_the_releases_guidance_and_steps(client: Client) -> None:
    scene = {"role": "user", "content": "A boy in a cave says: 'Good day.'"}
    default = said_aloud(client, {"speechlm": GREEDY})
    assert_same_sound(default, samples_of(message_of(spoken(client, scene, cfg=CFG))))
    unguided = said_aloud(client, {"speechlm": {**GREEDY, "cfg": 1}})
    assert_same_sound(unguided, samples_of(message_of(spoken(client, scene))))
    assert default.shape != unguided.shape or (default != unguided).any()


def test_the_frontend_has_the_releases_guidance(client: Client) -> None:
    @sgl.function
    def script(s: Any) -> None:
        s += sgl.user(QUESTION["content"])
        voices = s.fork(2)
        voices += lambda i: sgl.assistant(
            frontend.speak("voice", text="Good day.", audio_temperature=0, **({} if i == 0 else {"cfg": 1}))
        )
        voices.join()

    default, unguided = script.run(backend=frontend.SpeechLM(str(client.http.base_url)))["voice"]
    assert default.codes == message_of(spoken(client, text="Good day.", cfg=CFG))["speechlm"]["codes"]
    assert unguided.codes == message_of(spoken(client, text="Good day."))["speechlm"]["codes"]
    assert default.codes != unguided.codes


# Voices


@pytest.mark.parametrize(("voice", "scene"), [
    ("anna", "An old woman on a windy pier says: 'Good day.'"),
    (None, "A boy in a cave says: 'Good day.'"),
    ("onyx", "A serious man with a deep, resonant voice in a quiet room says: 'Good day.'"),
    ("A girl on a train", "A girl on a train says: 'Good day.'"),
])  # fmt: skip
def test_a_voice_is_a_name_of_ones_own_or_of_the_presets_or_a_description(
    voice: str | None, scene: str, client: Client
) -> None:
    heard = said_aloud(client, {"speechlm": {**GREEDY, "cfg": 1}, **({"voice": voice} if voice else {})})
    assert_same_sound(heard, samples_of(message_of(spoken(client, {"role": "user", "content": scene}))))


# The page


asked: set[str] = set()
failures: list[str] = []
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def page(server: Server) -> Iterator[Page]:
    with browser_page(server.url, asked, failures) as page:
        page.click("summary:text('Settings')")
        page.fill("#text_temperature", "0")
        page.fill("#audio_temperature", "0")
        yield page


@pytest.fixture(scope="module")
def described(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Locator:
    """The turn in which a clip was described."""
    file = tmp_path_factory.mktemp("clip") / "sea.wav"
    soundfile.write(file, clip(1, 1.0), 16000)
    page.set_input_files("#upload", file)
    page.check("input[name=mode][value=text]")
    page.fill("#message", "Describe it.")
    page.click("#send")
    expect(page.locator("#send")).to_be_enabled()
    expect(page.locator(".busy")).to_have_count(0)
    return page.locator(".turn").last


@needs_chromium
def test_the_page_begins_with_the_releases_decoding(page: Page) -> None:
    expect(page.locator("#cfg-shown")).to_have_text("2.5")
    assert page.input_value("#cfg") == "2.5"
    assert page.get_attribute("#audio_topk", "placeholder") == "20"
    assert page.input_value("#max_tokens") == ""


@needs_chromium
def test_a_plan_is_folded_away(described: Locator) -> None:
    thinking = described.locator(".thinking")
    expect(thinking).to_be_visible()
    assert thinking.locator("p").is_hidden()
    thinking.locator("summary").click()
    assert thinking.locator("p").is_visible()


@needs_chromium
def test_an_edited_caption_is_rendered_with_its_plan_and_guidance_and_without_planning_anew(
    described: Locator, page: Page
) -> None:
    plan = described.locator(".thinking p").text_content()
    described.locator(".edit").click()
    assert described.locator(".plan textarea").input_value() == plan
    described.locator(".plan textarea").fill("A plan of mine.")
    described.locator(".spoken-text").fill("The sea, and a gull.")
    with page.expect_request("**/v1/chat/completions") as request:
        described.locator(".editing button[type=submit]").click()
    expect(page.locator(".busy")).to_have_count(0)
    body = json_of(request.value)
    assert body["speechlm"]["text"] == "<think>A plan of mine.</think>The sea, and a gull."
    assert (body["speechlm"]["cfg"], body["speechlm"]["mode"]) == (CFG, "text_audio")
    assert "max_tokens" not in body
    assert described.locator(".thinking p").text_content() == "A plan of mine."
    assert described.locator(".answer > .text").inner_text() == "The sea, and a gull."
    assert described.locator(".player").is_visible()
    assert failures == []
