"""The defaults of a release: its decoding on every route, its voices and its plans."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sglang as sgl
import soundfile
from browser import CHROMIUM, browser_page, json_of
from playwright.sync_api import Locator, Page, expect
from safetensors.torch import load_file, save_file
from server import SECONDS, Client, Server, assert_same_sound, clip, message_of, samples_of, serving
from shared import POOL, SPEC

from sglang_speechlm import frontend
from sglang_speechlm.checkpoint import build_checkpoint
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.tokenizer import TextTokenizer

CFG, MIN_FRAMES, MAX_FRAMES, MAX_TEXT_TOKENS = 2.5, 12, 20, 16
DECODING: dict[str, Any] = {
    "audio_cfg": CFG,
    "audio_min_frames": MIN_FRAMES,
    "audio_max_frames": MAX_FRAMES,
    "text_max_tokens": MAX_TEXT_TOKENS,
    "decoding_source": "inference.yaml",
}
VOICES = {"anna": "An old woman on a windy pier", "alloy": "A boy in a cave"}
GREEDY: dict[str, Any] = {"text_temperature": 0, "audio_temperature": 0}
QUESTION = {"role": "user", "content": "Tell me about the sea."}
_CLOSE_FACTOR = 2.5
"""Factor for the logit of </think>, so that the model soon closes a plan."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a small model that thinks and has its own decoding defaults."""
    patient = replace(SPEC, eot_gain=1.0, eos_gain=1.0)  # a text does not end before its plan
    directory = build_checkpoint(tmp_path_factory.mktemp("thinking") / "small", spec=patient)
    config = SpeechLMConfig.from_pretrained(directory)
    (close,) = TextTokenizer.from_pretrained(directory, config).encode("</think>")
    tensors = load_file(directory / "model.safetensors")
    tensors["lm_head.weight"][close] *= _CLOSE_FACTOR
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
    with serving(checkpoint, folder / "log", *options) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


def spoken(*messages: Any, top: dict[str, Any] | None = None, **speechlm: Any) -> dict[str, Any]:
    """Return the body of a chat with a spoken answer."""
    extension = {**GREEDY, "mode": "text_audio", "return_ids": True, **speechlm}
    return {"messages": list(messages) or [QUESTION], "speechlm": extension, **(top or {})}


def codes(response: Any) -> Any:
    return message_of(response)["speechlm"]["codes"]


def frames(response: Any) -> int:
    return int(response["usage"]["completion_tokens_details"]["audio_tokens"])


def speech_samples(client: Client, body: dict[str, Any]) -> np.ndarray:
    response = client.http.post(
        "/v1/audio/speech",
        json={"input": "Good day.", "response_format": "pcm", "sample_rate": 16000, **body},
        timeout=SECONDS,
    )
    assert response.status_code == 200, response.text
    return np.frombuffer(response.content, "<i2")


# Decoding


def test_the_decoding_defaults_and_their_source_are_in_the_log_and_server_info(client: Client, server: Server) -> None:
    decoding = client.http.get("/server_info").json()["decoding"]
    assert decoding["source"] == "inference.yaml"
    assert decoding["audio"] == {
        "temperature": 0.8, "top_k": 20, "cfg": CFG, "min_frames": MIN_FRAMES, "max_frames": MAX_FRAMES,
    }  # fmt: skip
    assert decoding["text"]["max_tokens"] == MAX_TEXT_TOKENS
    assert str(decoding) in server.output()


def test_the_minimum_and_maximum_apply_without_max_tokens(client: Client) -> None:
    unending = {"messages": [QUESTION], "logit_bias": {"2": -100, "3": -100}, "temperature": 0}
    response, written = client.chat_at_once([spoken(), unending])
    assert len(message_of(response)["speechlm"]["text_ids"]) <= MAX_TEXT_TOKENS
    assert MIN_FRAMES <= frames(response) <= MAX_FRAMES
    assert written["usage"]["completion_tokens"] == MAX_TEXT_TOKENS
    assert written["choices"][0]["finish_reason"] == "length"


def test_max_tokens_replaces_the_maximum_but_not_the_minimum(client: Client) -> None:
    bias = {"2": -100, "3": -100}
    body = {"messages": [QUESTION], "logit_bias": bias, "temperature": 0, "max_tokens": 30}
    written, response = client.chat_at_once([body, spoken(top={"max_tokens": 4000})])
    assert written["usage"]["completion_tokens"] == 30
    assert frames(response) >= MIN_FRAMES


def test_a_chat_without_cfg_is_unguided(client: Client) -> None:
    default, unguided, guided = map(codes, client.chat_at_once([spoken(), spoken(cfg=1), spoken(cfg=CFG)]))
    assert default == unguided != guided


def test_a_request_with_vllm_xargs_but_no_cfg_is_unguided(client: Client) -> None:
    xargs = {"mode": "text_audio", "phase": "text", "text_temperature": 0, "audio_temperature": 0}
    body = {"messages": [QUESTION], "vllm_xargs": xargs, "speechlm": {"return_ids": True}}
    found, expected = map(codes, client.chat_at_once([body, spoken()]))
    assert found == expected


def test_fields_of_a_request_take_precedence(client: Client) -> None:
    limits = [(1, MIN_FRAMES - 2), (MAX_FRAMES + 4, MAX_FRAMES + 6)]
    bodies = [spoken(audio_min_frames=least, audio_max_frames=most) for least, most in limits]
    for (least, most), response in zip(limits, client.chat_at_once(bodies), strict=True):
        assert least <= frames(response) <= most


def test_the_speech_route_has_the_releases_guidance_and_steps(client: Client) -> None:
    scene = {"role": "user", "content": "A boy in a cave says: 'Good day.'"}
    with ThreadPoolExecutor() as threads:
        chats = threads.submit(client.chat_at_once, [spoken(scene, cfg=CFG), spoken(scene)])
        speech = threads.map(lambda more: speech_samples(client, {"speechlm": {**GREEDY, **more}}), ({}, {"cfg": 1}))
        default, unguided = speech
        for sound, answer in zip((default, unguided), chats.result(), strict=True):
            assert_same_sound(sound, samples_of(message_of(answer)))
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
    text = "Good day."
    assert [default.codes, unguided.codes] == [
        *map(codes, client.chat_at_once([spoken(text=text, cfg=CFG), spoken(text=text)]))
    ]
    assert default.codes != unguided.codes


# Voices


@pytest.mark.parametrize(("voice", "scene"), [
    ("anna", "An old woman on a windy pier says: 'Good day.'"),
    (None, "A boy in a cave says: 'Good day.'"),
    ("onyx", "A serious man with a deep, resonant voice in a quiet room says: 'Good day.'"),
    ("A girl on a train", "A girl on a train says: 'Good day.'"),
])  # fmt: skip
def test_a_voice_is_a_custom_name_a_preset_name_or_a_description(voice: str | None, scene: str, client: Client) -> None:
    with ThreadPoolExecutor() as threads:
        chat = threads.submit(client.chat, spoken({"role": "user", "content": scene}))
        sound = speech_samples(client, {"speechlm": {**GREEDY, "cfg": 1}, **({"voice": voice} if voice else {})})
        assert_same_sound(sound, samples_of(message_of(chat.result())))


# The page


requested_hosts: set[str] = set()
failures: list[str] = []
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def page(server: Server) -> Iterator[Page]:
    with browser_page(server.url, requested_hosts, failures) as page:
        page.click("summary:text('Settings')")
        page.fill("#text_temperature", "0")
        page.fill("#audio_temperature", "0")
        yield page


@pytest.fixture(scope="module")
def described_turn(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Locator:
    """Have a clip described, and return the turn."""
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
def test_the_page_starts_with_the_releases_decoding(page: Page) -> None:
    expect(page.locator("#cfg-shown")).to_have_text("2.5")
    assert page.input_value("#cfg") == "2.5"
    assert page.get_attribute("#audio_topk", "placeholder") == "20"
    assert page.input_value("#max_tokens") == ""


@needs_chromium
def test_a_plan_is_collapsed(described_turn: Locator) -> None:
    thinking = described_turn.locator(".thinking")
    expect(thinking).to_be_visible()
    assert thinking.locator("p").is_hidden()
    thinking.locator("summary").click()
    assert thinking.locator("p").is_visible()


@needs_chromium
def test_an_edited_caption_is_spoken_with_its_edited_plan(described_turn: Locator, page: Page) -> None:
    plan = described_turn.locator(".thinking p").text_content()
    described_turn.locator(".edit").click()
    assert described_turn.locator(".plan textarea").input_value() == plan
    described_turn.locator(".plan textarea").fill("A plan of mine.")
    described_turn.locator(".spoken-text").fill("The sea, and a gull.")
    with page.expect_request("**/v1/chat/completions") as request:
        described_turn.locator(".editing button[type=submit]").click()
    expect(page.locator(".busy")).to_have_count(0)
    body = json_of(request.value)
    assert body["speechlm"]["text"] == "<think>A plan of mine.</think>The sea, and a gull."
    assert (body["speechlm"]["cfg"], body["speechlm"]["mode"]) == (CFG, "text_audio")
    assert "max_tokens" not in body
    assert described_turn.locator(".thinking p").text_content() == "A plan of mine."
    assert described_turn.locator(".answer > .text").inner_text() == "The sea, and a gull."
    assert described_turn.locator(".player").is_visible()
    assert failures == []
