"""A real browser for tests of the page: a headless Chromium, if one is installed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Page, Request, expect, sync_playwright
from server import SECONDS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_ARGUMENTS = (
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

expect.set_options(timeout=1000 * SECONDS)


@contextmanager
def browser_page(url: str, hosts: set[str], failures: list[str]) -> Iterator[Page]:
    """Yield a page of a new browser.

    Args:
        url: the address to open.
        hosts: collects the hosts to which the page sends requests.
        failures: collects the errors of its scripts.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_ARGUMENTS), timeout=1000 * SECONDS)
        context = browser.new_context(permissions=["microphone", "clipboard-read", "clipboard-write"])
        page = context.new_page()
        page.set_default_timeout(1000 * SECONDS)
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.goto(url)
        yield page
        browser.close()


def json_of(request: Request) -> Any:
    """Return the JSON body of a request."""
    return json.loads(request.post_data or "")
