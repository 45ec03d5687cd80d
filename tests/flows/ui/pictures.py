"""Take the pictures of docs/ui.md: python -m tests.flows.ui.pictures HOME, where `tuneline run demo` has run.

They are of a copy, to which tenants, users, schedules and traffic are added: artifacts, runs and decisions
are the demo's own.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from flows.ui.access.access import Access
from flows.ui.app import application
from registry import Registry
from tests.flows.ui.around import alert_under_way, people_around
from tests.flows.ui.browser import chromium, served

FOLDER = Path(__file__).resolve().parents[3] / "docs" / "images"
CHANNEL = "demo/prod"
COLOURS = 200
"""Of a picture's palette: text stays sharp, and a file is a third as large."""
PHONE = ("fleet", "artifacts")
"""What is shown at 390 pixels too, or there only."""
PHONE_ONLY = ("artifacts",)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / ".tuneline"
        shutil.copytree(sys.argv[1], home)
        with Registry.open(home) as registry:
            token = people_around(registry, CHANNEL)
            alert_under_way(registry, CHANNEL)
            _pictures(registry, token)


def _pictures(registry: Registry, token: str) -> None:
    with served(application(registry, Access(registry))) as url, chromium() as browser:
        page = browser.new_page(base_url=url)
        page.goto("/signin")
        page.locator("input[name=token]").fill(token)
        page.get_by_role("button", name="Sign in").click()
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
            for name, path in _pages(registry).items():
                if name not in PHONE_ONLY:
                    page.set_viewport_size({"width": 1280, "height": 800})
                    _take(page, path, FOLDER / f"ui-{name}-{theme}.png")
                if name in PHONE:
                    page.set_viewport_size({"width": 390, "height": 800})
                    _take(page, path, FOLDER / f"ui-{name}-phone-{theme}.png")


def _pages(registry: Registry) -> dict[str, str]:
    channel = registry.channels.get(CHANNEL)
    assert channel is not None, f"{CHANNEL} is new: run `tuneline run demo` first"
    made_from = [registry.get(id_) for id_ in {edge.parent for edge in registry.lineage(channel.artifact_id)}]
    first = {artifact.manifest.kind: artifact.id for artifact in made_from}
    return {
        "fleet": "/",
        "artifacts": "/artifacts",
        "adapter": f"/artifacts/{first['adapter']}",
        "compare": f"/compare?id={first['base']}&id={channel.artifact_id}",
        "rows": f"/artifacts/{first['dataset']}/rows",
        "channel": f"/channels/{CHANNEL}",
        "gate": f"/gates/{registry.gates.about(channel.artifact_id)[0].id}",
        "schedules": "/schedules",
    }


def _take(page: Page, path: str, file: Path) -> None:
    page.goto(path)
    if path.endswith("/rows"):
        page.wait_for_selector("#chats mark")
    if page.locator("[data-chart]").count():
        page.wait_for_selector(".chart canvas")
    if page.locator("#live").count():
        page.wait_for_function("document.getElementById('live')?.textContent !== 'reconnecting'")
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
