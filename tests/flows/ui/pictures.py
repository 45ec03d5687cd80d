"""Take the pictures of docs/ui.md: python -m tests.flows.ui.pictures HOME, where the demo has run."""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import Page

from flows.ui.access.access import Access
from flows.ui.app import application
from registry import Registry
from tests.flows.ui.browser import chromium, served

FOLDER = Path(__file__).resolve().parents[3] / "docs" / "images"


def main() -> None:
    with (
        Registry.open(Path(sys.argv[1])) as registry,
        served(application(registry, Access(registry, link_token="link"))) as url,
        chromium() as browser,
    ):
        page = browser.new_page(base_url=url, viewport={"width": 1280, "height": 800})
        page.goto("/signin/link?token=link")
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
            for name, path in _pages(registry).items():
                _take(page, path, FOLDER / f"ui-{name}-{theme}.png")


def _pages(registry: Registry) -> dict[str, str]:
    adapter, quantized = (registry.ls(kind, 1)[0] for kind in ("adapter", "quantized"))
    base, dataset = (registry.ls(kind, 1)[0] for kind in ("base", "dataset"))
    return {
        "fleet": "/",
        "adapter": f"/artifacts/{adapter.id}",
        "compare": f"/compare?id={base.id}&id={quantized.id}",
        "rows": f"/artifacts/{dataset.id}/rows",
    }


def _take(page: Page, path: str, file: Path) -> None:
    page.goto(path)
    if path.endswith("/rows"):
        page.wait_for_selector("#chats mark")
    page.wait_for_load_state("networkidle")
    page.screenshot(path=file)
    print(file)


if __name__ == "__main__":
    main()
