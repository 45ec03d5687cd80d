"""A real browser on the pages of a real server, for tests and for pictures."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, sync_playwright
from starlette.types import ASGIApp

from serving.process.process import listen
from tests.seconds import seconds

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NO_BROWSER = "no Chromium on PATH; on Debian: apt-get install chromium"
WITHOUT = "TUNELINE_WITHOUT_BROWSER"
SCREENSHOTS = "TUNELINE_SCREENSHOTS"
"""Names a folder that gets a picture of each page; for CI to keep."""


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """The URL of the application, served on loopback by a thread."""
    with listen("127.0.0.1", 0) as listener:
        config = uvicorn.Config(app, access_log=False, log_config=None, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(seconds(20))


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window. Where there is none the test fails, unless one said to do without."""
    if CHROMIUM is None:
        if os.environ.get(WITHOUT) == "1":
            pytest.skip(NO_BROWSER)
        pytest.fail(f"{NO_BROWSER}; or set {WITHOUT}=1, and the pages are not tried in a browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def keep_picture(page: Page, path: str, theme: str) -> None:
    """Put a picture of the whole page into the folder that `SCREENSHOTS` names, if it names one."""
    if folder := os.environ.get(SCREENSHOTS):
        name = (
            re.sub(r"[^a-z0-9]+", "-", re.sub(r"([0-9a-f]{8})[0-9a-f]{56}", r"\1", path)).strip("-")
            or "fleet"
        )
        page.screenshot(path=Path(folder) / f"{name}-{theme}.png", full_page=True)


@dataclass
class Complaints:
    """What a page complained of: errors in its console, answers that failed, its policy violated."""

    lines: list[str] = field(default_factory=list)

    def listen(self, page: Page) -> None:
        """Hear all of it from now on; a violation of the policy is a console error too."""
        page.on("console", lambda m: self.lines.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.lines.append(str(error)))
        page.on("response", lambda r: self.lines.append(f"{r.status} {r.url}") if r.status >= 400 else None)
