"""The page in a real browser: a headless Chromium, if one is installed."""

from __future__ import annotations

import base64
import io
import json
import shlex
from collections.abc import Iterator

import numpy as np
import pytest
import soundfile
from browser import CHROMIUM, browser_page, json_of
from playwright.sync_api import FilePayload, Locator, Page, expect
from server import Server

requested_hosts: set[str] = set()
"""Hosts to which the page sent requests."""
failures: list[str] = []
SETTINGS = "summary:text('Settings')"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def tab(server: Server) -> Iterator[Page]:
    with browser_page(server.url, requested_hosts, failures) as page:
        yield page


@pytest.fixture
def page(tab: Page, server: Server) -> Iterator[Page]:
    """Load the page anew; at the end, no other host has got a request, and no script has failed."""
    requested_hosts.clear()
    failures.clear()
    tab.set_viewport_size({"width": 1280, "height": 720})
    tab.goto(server.url)
    yield tab
    assert tab.url.startswith(server.url)
    assert requested_hosts == {server.url.split("/")[2]}
    assert failures == []


@pytest.fixture
def spoken_turn(page: Page) -> Locator:
    """Ask for a spoken answer, and return its turn."""
    page.fill("#message", "Tell me about the sea.")
    return _send(page)


def _send(page: Page) -> Locator:
    """Send the form and return the new turn after its answer has ended."""
    page.click("#send")
    expect(page.locator("#send")).to_be_enabled()
    expect(page.locator(".busy")).to_have_count(0)
    return page.locator(".turn").last


def _guide(page: Page, scale: float) -> None:
    script = "s => { const c = document.getElementById('cfg'); c.value = s; c.dispatchEvent(new Event('input')); }"
    page.evaluate(script, scale)


def _colours(canvas: Locator) -> int:
    """Return the number of colours of a canvas."""
    script = """c => { const image = c.getContext("2d").getImageData(0, 0, c.width, c.height);
        return new Set(new Uint32Array(image.data.buffer)).size; }"""
    colours: int = canvas.evaluate(script)
    return colours


def test_no_empty_element_is_shown_before_a_question(page: Page) -> None:
    for selector in ("audio", "canvas", "#error", "#stop", "#drop-clip"):
        assert page.locator(f"{selector}:visible").count() == 0, selector
    assert page.is_visible("#empty")


def test_the_served_model_is_named_without_its_path(page: Page) -> None:
    expect(page.locator("#server")).to_contain_text("serving ")
    assert "/" not in page.inner_text("#server")


def test_a_spoken_answer_has_text_sound_and_pictures(page: Page) -> None:
    page.fill("#message", "Tell me about the sea.")
    _guide(page, 3)
    turn = _send(page)
    assert turn.locator(".question .text").inner_text() == "Tell me about the sea."
    assert turn.locator(".answer > .text").inner_text().strip()
    assert turn.locator(".player").is_visible()
    assert "sound" in (turn.locator(".facts dl").text_content() or "")
    assert _colours(turn.locator(".waveform")) > 1
    assert _colours(turn.locator(".spectrogram")) > 50


def test_the_wav_can_be_downloaded(page: Page, spoken_turn: Locator) -> None:
    with page.expect_download() as download:
        spoken_turn.locator(".download").click()
    assert download.value.path().read_bytes()[:4] == b"RIFF"


def test_a_recorded_clip_is_sent_with_the_question(page: Page) -> None:
    page.fill("#message", "")
    page.click("#record")
    page.wait_for_timeout(800)
    page.click("#record")
    expect(page.locator("#clip")).to_contain_text("recording")
    page.check("input[name=mode][value=text]")
    turn = _send(page)
    assert turn.locator(".clip").is_visible()
    assert turn.locator(".error").is_hidden()
    assert turn.locator(".answer > .text").inner_text().strip()
    assert page.locator("#drop-clip").is_hidden()


RECORDED = """async () => {
    const context = new AudioContext(), target = context.createMediaStreamDestination();
    const tone = new OscillatorNode(context, {frequency: 440});
    tone.connect(target);
    tone.start();
    const recorder = new MediaRecorder(target.stream, {mimeType: "audio/webm"}), parts = [];
    const ended = new Promise((resolve) => { recorder.onstop = resolve; });
    recorder.ondataavailable = (event) => parts.push(event.data);
    recorder.start();
    await new Promise((resolve) => { setTimeout(resolve, 700); });
    recorder.stop();
    await ended;
    return btoa(String.fromCharCode(...new Uint8Array(await new Blob(parts).arrayBuffer())));
}"""


def test_a_webm_recording_is_sent_as_a_wav_file(page: Page) -> None:
    webm = base64.b64decode(page.evaluate(RECORDED))
    page.fill("#message", "")
    page.check("input[name=mode][value=text]")
    page.set_input_files("#upload", FilePayload(name="memo.webm", mimeType="audio/webm", buffer=webm))
    expect(page.locator("#clip")).to_contain_text("memo.webm")
    with page.expect_request("**/v1/chat/completions") as request:
        _send(page)
    clip = json_of(request.value)["messages"][-1]["content"][0]["input_audio"]
    assert clip["format"] == "wav"
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(clip["data"])))
    assert len(samples) > rate // 4
    assert abs(np.argmax(np.abs(np.fft.rfft(samples))) * rate / len(samples) - 440) < 5


@pytest.mark.usefixtures("spoken_turn")
def test_earlier_turns_stay_and_are_sent_with_the_next_question(page: Page) -> None:
    page.fill("#message", "And then?")
    with page.expect_request("**/v1/chat/completions") as request:
        _send(page)
    assert page.locator(".turn").count() == 2
    messages = json_of(request.value)["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["audio"]["id"].startswith("audio-")
    assert messages[1]["content"]


def test_an_edited_text_is_spoken_unchanged(page: Page, spoken_turn: Locator) -> None:
    turn = spoken_turn
    turn.locator(".edit").click()
    turn.locator(".spoken-text").fill("A text of mine.")
    with page.expect_request("**/v1/chat/completions") as request:
        turn.locator(".editing button[type=submit]").click()
    expect(page.locator(".busy")).to_have_count(0)
    assert json_of(request.value)["speechlm"]["text"] == "A text of mine."
    assert len(json_of(request.value)["messages"]) == 1
    assert turn.locator(".answer > .text").inner_text() == "A text of mine."
    assert turn.locator(".player").is_visible()


def test_a_plan_is_shown_separately_and_sent_back_with_its_text(page: Page) -> None:
    reply, shown = page.evaluate("""async () => {
        const { Turn } = await import("./turn.js");
        const turn = new Turn({ role: "user", content: "Hello." }, "Hello.", null);
        const deltas = [{ reasoning_content: "A pl" }, { reasoning_content: "an." }, { content: "\\n\\nGood day." }];
        for (const delta of deltas) {
            turn.take({ choices: [{ delta }] });
        }
        const texts = [".thinking p", ".answer > .text"].map((selector) => turn.find(selector).textContent);
        return [turn.history()[1], texts];
    }""")
    assert reply == {"role": "assistant", "reasoning_content": "A plan.", "content": "\n\nGood day."}
    assert shown == ["A plan.", "Good day."]


def test_the_copied_command_sends_the_same_request(page: Page, server: Server) -> None:
    page.fill("#message", "It's $HOME, `date` and \"quotes\"\n'over' two lines \\")
    page.click(SETTINGS)
    page.fill("#api_key", "k'ey $HOME")
    page.click("#curl")
    expect(page.locator("#copied")).to_have_text("copied")
    words = shlex.split(page.evaluate("navigator.clipboard.readText()"))
    assert words[:2] == ["curl", f"{server.url}/v1/chat/completions"]
    assert "Authorization: Bearer k'ey $HOME" in words
    last = json.loads(words[-1])["messages"][-1]
    assert last["content"][-1]["text"] == "It's $HOME, `date` and \"quotes\"\n'over' two lines \\"


def test_a_refusal_is_shown_and_the_question_can_be_corrected(page: Page) -> None:
    page.fill("#message", "Hello.")
    page.click(SETTINGS)
    page.fill("#seed", "1e30")
    turn = _send(page)
    assert "seed" in turn.locator(".error").inner_text()
    assert page.input_value("#message") == "Hello."


def test_the_page_fits_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
