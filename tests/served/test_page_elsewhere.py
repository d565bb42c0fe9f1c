"""A page of another origin plays a stream: examples/browser.html in a headless Chromium, if one is installed."""

import functools
import io
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from browser import CHROMIUM, browser_page
from playwright.sync_api import Page, expect
from server import Client, Server

EXAMPLES = Path(__file__).parents[2] / "examples"
RATE = 48_000
SPEECH = {"input": "Good day to you.", "seed": 7, "max_tokens": 60}
RENDER = """async ([server, request, rate]) => {
    const pieces = [];
    for await (const piece of speech(server, request)) pieces.push(piece);
    const seconds = pieces.reduce((sum, piece) => sum + piece.samples.length / piece.rate, 0);
    const context = new OfflineAudioContext(1, Math.ceil(seconds * rate), rate);
    pieces.reduce((start, piece) => play(context, piece, start), 0);
    return [pieces[0].rate, Array.from((await context.startRendering()).getChannelData(0))];
}"""
"""Renders what the page plays as the sound card would receive it."""

failures: list[str] = []

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files without logging requests."""

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(EXAMPLES))) as elsewhere:
        threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
        with browser_page(f"http://127.0.0.1:{elsewhere.server_port}/browser.html", set(), failures) as page:
            yield page
        elsewhere.shutdown()


def test_a_stream_is_played_at_the_pitch_and_pace_of_the_file(page: Page, server: Server, client: Client) -> None:
    rate, played = page.evaluate(RENDER, [server.url, SPEECH, RATE])
    file = client.http.post("/v1/audio/speech", json={**SPEECH, "response_format": "wav"})
    samples, file_rate = soundfile.read(io.BytesIO(file.content), dtype="float32")
    expected = soxr.resample(samples, file_rate, RATE)
    assert rate == 24_000
    assert len(played) == pytest.approx(len(expected), abs=RATE // 50)
    length = min(len(played), len(expected))
    assert np.corrcoef(np.array(played[:length]), expected[:length])[0, 1] > 0.9


def test_the_form_speaks_and_shows_the_duration(page: Page, server: Server) -> None:
    page.fill("[name=server]", server.url)
    page.fill("[name=text]", "Good day.")
    page.click("button")
    expect(page.locator("#status")).to_contain_text(" s")
    assert failures == []
