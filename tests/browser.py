"""Debian's Chromium, driven by Playwright; it reaches nothing but this machine."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

# without windows it takes half the CPU time
CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")
ALONE = [
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-domain-reliability",
    "--disable-sync",
    "--no-first-run",
    "--no-pings",
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser for the length of the block."""
    # its sandbox needs a user who is not root
    args = ALONE + (["--no-sandbox"] if os.geteuid() == 0 else [])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def innocent_page(browser: Browser, timeout: float, **options: Any) -> Iterator[Page]:
    """Open a page for the length of the block; fail where it failed or reached for another host."""
    context = browser.new_context(**options)
    context.set_default_timeout(timeout * 1000)
    page = context.new_page()
    complaints: list[str] = []
    hosts: set[str | None] = set()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    try:
        yield page
    finally:
        context.close()
    # that the service refuses something is said in the console too, and is no fault of the page
    faults = [text for text in complaints if not text.startswith("Failed to load resource")]
    assert not faults, faults
    assert hosts <= {"127.0.0.1", None}, hosts
