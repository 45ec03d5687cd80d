"""How fast the web interface is with 10,000 artifacts: python -m tests.bench.ui [--mlflow]

Each page is opened in a new browser process, over loopback. `usable`: from the start of the navigation until
the list is painted and the scripts have run. The page's own clock tells it: whoever asks from outside whether
something is visible makes the browser lay the page out once more, before its stylesheet has come. `--mlflow`
installs MLflow into a temporary environment, registers as many models there, and opens its page of models in
the same way.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
from playwright.sync_api import Page, StorageState, sync_playwright

from registry import Registry
from tests.bench import mlflow_server
from tests.bench.mlflow_server import MLFLOW
from tests.bench.results import Report
from tests.flows.ui.browser import CHROMIUM, NO_BROWSER
from tests.flows.ui.measured import measure
from tests.registry.large import large_registry

TIMES, ITEMS = 15, 2000
WATCH = """
const look = () => document.querySelector(SELECTOR)
  ? setTimeout(() => { window.painted = performance.now(); })
  : requestAnimationFrame(look);
requestAnimationFrame(look);
"""
"""Looks before each frame; what it finds then is painted when the next task runs."""
TIMES_OF_PAGE = """() => {
  const paint = performance.getEntriesByName('first-contentful-paint')[0]?.startTime;
  const scripts = performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd;
  return window.painted && scripts && paint && [paint, Math.max(paint, window.painted, scripts)];
}"""
BYTES = (
    "performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'))"
    ".reduce((sum, entry) => sum + entry.transferSize, 0)"
)


class Opened(NamedTuple):
    """Milliseconds to the first contentful paint and until it can be used; bytes on the wire."""

    paint: float
    usable: float
    bytes: int


def opened(url: str, ready: str, state: StorageState | None = None) -> Opened:
    """Open a page in a new browser; `ready` is a selector of what one came for."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page: Page = browser.new_context(storage_state=state).new_page()
        page.add_init_script(WATCH.replace("SELECTOR", json.dumps(ready)))
        page.goto(url, wait_until="commit")
        times = page.wait_for_function(TIMES_OF_PAGE, timeout=120_000, polling=100).json_value()
        result = Opened(*times, page.evaluate(BYTES))
        browser.close()
    return result


def signed_in(link: str) -> StorageState:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context()
        context.new_page().goto(link)
        state = context.storage_state()
        browser.close()
    return state


def row(report: Report, title: str, name: str, results: list[Opened], ours: list[Opened]) -> None:
    """`ours`: what it is compared with, in pairs."""
    paint, usable = (statistics.median(getattr(r, key) for r in results) for key in ("paint", "usable"))
    ratio = statistics.median(t.usable / o.usable for t, o in zip(results, ours, strict=True))
    figures = {"first paint (ms)": paint, "usable (ms)": usable, "on the wire (kB)": results[0].bytes / 1000}
    report.row(
        title,
        {"page": name, **figures, "usable / our list of artifacts": ratio},
        behind=ratio < 5 and MLFLOW in name,
    )


@contextmanager
def interface(home: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """`tuneline ui` in a process of its own, and what it said."""
    command = [sys.executable, "-m", "flows.cli", "ui", "--port", "0", "--json"]
    env = {"TUNELINE_HOME": str(home), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            process.terminate()


def requests_per_second(report: Report, url: str, state: StorageState, home: Path, seconds: float) -> None:
    """The fleet page, by four clients at once, while somebody publishes."""
    cookies = {cookie["name"]: cookie["value"] for cookie in state["cookies"]}
    ends, times, lock = time.monotonic() + seconds, list[float](), threading.Lock()

    def ask() -> None:
        with httpx.Client(cookies=cookies) as client:
            while time.monotonic() < ends:
                began = time.perf_counter()
                assert client.get(url).status_code == 200
                with lock:
                    times.append(time.perf_counter() - began)

    writer = threading.Thread(target=write_as_a_run, args=(home, ends))
    clients = [threading.Thread(target=ask) for _ in range(4)]
    for thread in (writer, *clients):
        thread.start()
    for thread in (writer, *clients):
        thread.join()
    times.sort()
    p50, p95 = times[len(times) // 2], times[int(0.95 * len(times))]
    figures = {"requests/s": len(times) / seconds, "p50 (ms)": 1000 * p50, "p95 (ms)": 1000 * p95}
    report.row("The fleet page while a run writes", {"clients": 4, **figures})


def write_as_a_run(home: Path, ends: float) -> None:
    """Write as a run does: its journal twice a second, an outcome now and then."""
    folder = home / "runs" / "20260101-000000-bench0"
    folder.mkdir(parents=True, exist_ok=True)
    while time.monotonic() < ends:
        with (folder / "events.jsonl").open("a") as file:
            file.write('{"event": "progress", "at": 0, "label": "train adapter", "done": 1, "total": 2}\\n')
        time.sleep(0.5)


def mlflow(count: int, folder: Path, ours: Callable[[], Opened]) -> list[tuple[Opened, Opened]]:
    """MLflow's page of models with as many of them, on SQLite, from its own server, in turns with `ours`."""
    python = mlflow_server.installed(folder)
    with mlflow_server.served(python, mlflow_server.filled(python, folder, count)) as url:
        return [(opened(f"{url}/#/models", "a[href*=model-0]"), ours()) for _ in range(TIMES)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifacts", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of asking for the fleet page")
    parser.add_argument("--mlflow", action="store_true", help="also MLflow, with as many models")
    arguments = parser.parse_args()
    if CHROMIUM is None:
        sys.exit(NO_BROWSER)
    with Report("ui", "starlette", "jinja2") as report, tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        made = large_registry(home, arguments.artifacts)
        with Registry.open(home) as registry:
            models = registry.ls("quantized", 2)
            for shift, model in enumerate(models):
                scores = [float((item + shift) % 3 == 0) for item in range(ITEMS)]
                measure(registry, model, scores, [f"answer {item} of {shift}" for item in range(ITEMS)])
        title = f"{arguments.artifacts:,} artifacts; median of {TIMES} new browsers"
        with interface(home) as (process, said):
            state, url = signed_in(said["link"]), said["url"]
            pages = {
                "fleet": ("/", "article"),
                "artifacts": ("/artifacts", "tr[data-row]"),
                "artifact with a lineage of 200": (f"/artifacts/{made.deepest}", ".lineage svg"),
                "compare two on 2,000 items": (f"/compare?id={models[0].id}&id={models[1].id}", "#answers"),
            }
            ours = {
                name: [opened(url + path, ready, state) for _ in range(TIMES)]
                for name, (path, ready) in pages.items()
            }
            for name, results in ours.items():
                row(report, title, name, results, ours["artifacts"])
            requests_per_second(report, url + "/", state, home, arguments.seconds)
            held = psutil.Process(process.pid).memory_info().rss / 1e6
            report.note("The fleet page while a run writes", f"The server held {held:.0f} MB.")
            if arguments.mlflow:
                path, ready = pages["artifacts"]
                pairs = mlflow(arguments.artifacts, Path(folder), lambda: opened(url + path, ready, state))
                theirs, beside = ([pair[n] for pair in pairs] for n in (0, 1))
                row(report, title, f"models, {MLFLOW}", theirs, beside)


if __name__ == "__main__":
    main()
