"""The page, in a real browser: a headless Chromium, where this machine has one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, sync_playwright
from server import SECONDS, Server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
)

asked: set[str] = set()
"""Hosts that the page asked for something."""
failures: list[str] = []

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def page(server: Server) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS), timeout=1000 * SECONDS)
        context = browser.new_context(permissions=["microphone", "clipboard-read", "clipboard-write"])
        page = context.new_page()
        page.set_default_timeout(1000 * SECONDS)
        page.on("request", lambda request: asked.add(request.url.split("/")[2]))
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.goto(server.url)
        yield page
        browser.close()


def _ask(page: Page) -> None:
    page.click("#send")
    page.wait_for_function("!document.getElementById('send').disabled")


def _shows(page: Page, canvas: str) -> int:
    """How many colours a canvas has."""
    script = """id => { const c = document.getElementById(id);
        const image = c.getContext("2d").getImageData(0, 0, c.width, c.height);
        return new Set(new Uint32Array(image.data.buffer)).size; }"""
    colours: int = page.evaluate(script, canvas)
    return colours


def test_a_spoken_answer_is_read_heard_and_seen(page: Page) -> None:
    page.fill("#message", "Tell me about the sea.")
    page.evaluate(
        "() => { const c = document.getElementById('cfg'); c.value = 3; c.dispatchEvent(new Event('input')); }"
    )
    _ask(page)
    assert page.inner_text("#answer").strip()
    assert page.is_visible("#player")
    assert "sound" in page.inner_text("#timings")
    assert _shows(page, "waveform") > 1
    assert _shows(page, "spectrogram") > 50


def test_the_wav_can_be_downloaded(page: Page) -> None:
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.path().read_bytes()[:4] == b"RIFF"


def test_a_recorded_clip_goes_with_the_question(page: Page) -> None:
    page.click("#record")
    page.wait_for_timeout(800)
    page.click("#record")
    page.wait_for_function("document.getElementById('clip').textContent.startsWith('recording')")
    page.check("input[name=mode][value=text]")
    _ask(page)
    assert page.is_hidden("#error")
    assert page.inner_text("#answer").strip()
    page.click("#drop-clip")


def test_the_question_can_be_copied_as_a_command(page: Page) -> None:
    page.click("#curl")
    page.wait_for_function("document.getElementById('copied').textContent === 'copied'")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("curl http")
    assert "/v1/chat/completions" in copied


def test_a_refusal_is_shown(page: Page) -> None:
    page.fill("#message", "")
    _ask(page)
    assert "content" in page.inner_text("#error")


def test_nothing_is_asked_of_other_hosts_and_nothing_fails(page: Page, server: Server) -> None:
    assert page.url.startswith(server.url)
    assert asked == {server.url.split("/")[2]}
    assert failures == []
