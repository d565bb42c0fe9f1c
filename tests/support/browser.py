"""A real browser for tests of the page: a headless Chromium, if one is installed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, Request, expect, sync_playwright
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
def running_browser() -> Iterator[Browser]:
    """Yield a new browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_ARGUMENTS), timeout=1000 * SECONDS)
        yield browser
        browser.close()


@contextmanager
def opened_page(browser: Browser, url: str, hosts: set[str], failures: list[str]) -> Iterator[Page]:
    """Yield a page that shares nothing with other pages of the browser.

    Args:
        browser: the browser.
        url: the address to open.
        hosts: collects the hosts to which the page sends requests.
        failures: collects the errors of its scripts.
    """
    with browser.new_context(permissions=["microphone", "clipboard-read", "clipboard-write"]) as context:
        page = context.new_page()
        page.set_default_timeout(1000 * SECONDS)
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.goto(url)
        yield page


@contextmanager
def browser_page(url: str, hosts: set[str], failures: list[str]) -> Iterator[Page]:
    """Yield an opened page of a new browser."""
    with running_browser() as browser, opened_page(browser, url, hosts, failures) as page:
        yield page


def json_of(request: Request) -> Any:
    """Return the JSON body of a request."""
    return json.loads(request.post_data or "")
