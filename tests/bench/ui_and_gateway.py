"""What the web interface costs a gateway: python -m tests.bench.ui_and_gateway [--seconds 6] [--turns 6]

A registry of 10,000 artifacts in SQLite; `tuneline ui` and the gateway are processes of their own on it, the
engine is a pico model on llama.cpp, and a run writes its journal meanwhile. The gateway is asked ten times a
second, in turns with and without the fleet page being asked for 50 times a second. Requests begin when it is
their time, whether the one before was answered or not, so a wait is counted in full.

Then the fleet page stays open in a browser and takes itself anew `--changes` times, as it does when it hears
of a change: a day with one every 20 seconds, in minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import psutil
from playwright.sync_api import StorageState, sync_playwright

from tests.bench.ui import interface, signed_in, write_as_a_run
from tests.flows.ui.browser import CHROMIUM, NO_BROWSER
from tests.registry.large import large_registry
from tests.serving.gateway.live_gateway import LLAMA, Gateway, running
from tests.serving.populated_registry import PopulatedRegistry, kept_registry

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES_PER_SECOND, QUESTIONS_PER_SECOND = 50, 10
Times = list[float]
HEAR = """async (changes) => {
  for (let number = 0; number < changes; number++) {
    const shown = new Promise((done) => document.addEventListener("htmx:after:swap", done, { once: true }));
    document.body.dispatchEvent(new CustomEvent("registry-changed"));
    await shown;
  }
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--artifacts", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each turn")
    parser.add_argument("--turns", type=int, default=6, help="with the fleet page, and as many without")
    parser.add_argument("--changes", type=int, default=4000, help="that the open page hears of")
    given = parser.parse_args()
    if CHROMIUM is None:
        sys.exit(NO_BROWSER)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        populated = kept_registry(CHECKOUT, folder / "home", 3)
        large_registry(populated.home, given.artifacts)
        with interface(populated.home) as (process, said):
            state = signed_in(said["link"])
            _beside(populated, folder, said["url"], state, given)
            _left_open(said["url"], state, process.pid, given.changes)


def _beside(
    populated: PopulatedRegistry, folder: Path, url: str, state: StorageState, given: argparse.Namespace
) -> None:
    with running(populated, folder, [LLAMA]) as gateway:
        key = gateway.tenant("bench", populated.adapters[0].gguf)
        ends = time.monotonic() + 2 * given.turns * (given.seconds + 1) + 30
        threading.Thread(target=write_as_a_run, args=(populated.home, ends), daemon=True).start()
        cookies = {cookie["name"]: cookie["value"] for cookie in state["cookies"]}
        alone, beside, pages = asyncio.run(_turns(gateway, key, url, cookies, given))
    print(f"gateway, {QUESTIONS_PER_SECOND} requests/s, alone:   {_spread(alone)}")
    print(f"gateway, beside the fleet page:  {_spread(beside)}")
    print(f"ratio of the medians: {statistics.median(beside) / statistics.median(alone):.2f}")
    rate = len(pages) / (given.turns * given.seconds)
    print(f"fleet page: {rate:.1f} requests/s, {_spread(pages)}")


async def _turns(
    gateway: Gateway, key: str, url: str, cookies: dict[str, str], given: argparse.Namespace
) -> tuple[Times, Times, Times]:
    """Seconds of the gateway's answers alone, beside the pages, and of the pages."""
    alone, beside, pages = Times(), Times(), Times()
    limits = httpx.Limits(max_connections=256)
    async with (
        httpx.AsyncClient(headers={"authorization": f"Bearer {key}"}, timeout=60, limits=limits) as asking,
        httpx.AsyncClient(cookies=cookies, timeout=60, limits=limits) as looking,
    ):
        body = {
            "model": "team/bench",
            "messages": [{"role": "user", "content": "Who are you?"}],
            "max_tokens": 8,
            "temperature": 0,
        }

        async def ask() -> None:
            answer = await asking.post(f"{gateway.url}/chat/completions", json=body)
            assert answer.status_code == 200, answer.text

        async def look() -> None:
            assert (await looking.get(url)).status_code == 200

        await _at_a_rate(QUESTIONS_PER_SECOND, 2.0, ask, Times())
        await _at_a_rate(PAGES_PER_SECOND, 2.0, look, Times())
        for _ in range(given.turns):
            await _at_a_rate(QUESTIONS_PER_SECOND, given.seconds, ask, alone)
            await asyncio.gather(
                _at_a_rate(QUESTIONS_PER_SECOND, given.seconds, ask, beside),
                _at_a_rate(PAGES_PER_SECOND, given.seconds, look, pages),
            )
    return alone, beside, pages


async def _at_a_rate(rate: float, seconds: float, ask: Callable[[], Awaitable[None]], times: Times) -> None:
    """Begin a request at each of its times; seconds from then to its answer."""
    began = time.perf_counter()

    async def one(due: float) -> None:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await ask()
        times.append(time.perf_counter() - due)

    await asyncio.gather(*(one(began + number / rate) for number in range(round(seconds * rate))))


def _spread(times: Times) -> str:
    cuts = statistics.quantiles(times, n=100)
    return f"p50 {1000 * cuts[49]:.1f} ms, p95 {1000 * cuts[94]:.1f} ms, p99 {1000 * cuts[98]:.1f} ms"


def _left_open(url: str, state: StorageState, pid: int, changes: int) -> None:
    """The fleet page in a browser hears of one change after the other, each as soon as the last is shown."""
    server = psutil.Process(pid)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(storage_state=state).new_page()
        page.goto(url)
        counters = page.context.new_cdp_session(page)
        for number in (changes // 10, changes - changes // 10):
            page.evaluate(HEAR, number)
            counters.send("HeapProfiler.collectGarbage")
            heap = counters.send("Runtime.getHeapUsage")["usedSize"] / 1e6
            document = counters.send("Memory.getDOMCounters")
            print(f"{number:,} changes later: heap {heap:.2f} MB, {document['nodes']:,} nodes, "
                  f"{document['jsEventListeners']} listeners; server {server.memory_info().rss / 1e6:.0f} MB",
                  flush=True)  # fmt: skip
        browser.close()


if __name__ == "__main__":
    main()
