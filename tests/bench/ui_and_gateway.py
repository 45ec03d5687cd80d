"""What the web interface costs a gateway: python -m tests.bench.ui_and_gateway [--seconds 4] [--turns 16]

A registry of 10,000 artifacts in SQLite; `tuneline ui` and the gateway are processes of their own on it, the
engine is a pico model on llama.cpp, and a run writes its journal meanwhile. The gateway is asked ten times a
second, in turns with and without the fleet page being asked for 50 times a second. Requests begin when it is
their time, whether the one before was answered or not, so a wait is counted in full. Another process, with
the lowest priority, asks for the pages: it stands for browsers on other machines.

Then the fleet page stays open in a browser and takes itself anew `--changes` times, as it does when it hears
of a change: a day with one every 20 seconds, in minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import re
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
from playwright.sync_api import StorageState, sync_playwright
from scipy.stats import ttest_1samp

from tests.bench.results import Report
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
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn")
    parser.add_argument("--turns", type=int, default=16, help="with the fleet page, and as many without")
    parser.add_argument("--changes", type=int, default=4000, help="that the open page hears of")
    given = parser.parse_args()
    if CHROMIUM is None:
        sys.exit(NO_BROWSER)
    packages = ("starlette", "aiohttp", "llama-cpp-python")
    with Report("ui_and_gateway", *packages) as report, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        populated = kept_registry(CHECKOUT, folder / "home", 3)
        large_registry(populated.home, given.artifacts)
        with interface(populated.home) as (process, said):
            state = signed_in(said["link"])
            _beside(report, populated, folder, said["url"], state, given)
            _left_open(report, said["url"], state, process.pid, given.changes)


def _beside(
    report: Report, populated: PopulatedRegistry, folder: Path, url: str, state: StorageState,
    given: argparse.Namespace,
) -> None:  # fmt: skip
    with running(populated, folder, [LLAMA]) as gateway:
        key = gateway.tenant("bench", populated.adapters[0].gguf)
        ends = time.monotonic() + 2 * given.turns * (given.seconds + 1) + 30
        threading.Thread(target=write_as_a_run, args=(populated.home, ends), daemon=True).start()
        cookies = {cookie["name"]: cookie["value"] for cookie in state["cookies"]}
        with ProcessPoolExecutor(1, get_context("spawn"), os.nice, (19,)) as browsers:
            look = partial(browsers.submit, _pages, url, cookies)
            look(2.0).result()
            alone, beside, pages = asyncio.run(_turns(gateway, key, look, given))
    title, rate = "Gateway and web interface on one machine", len(pages) / (given.turns * given.seconds)
    asked = {"requests/s": float(QUESTIONS_PER_SECOND)}
    report.row(title, {"what": "gateway alone", **asked, **_spread(list(chain(*alone)))})
    ratio, interval = _ratio(beside, alone)
    compared = {**_spread(list(chain(*beside))), "beside / alone": ratio, "95 %": interval}
    report.row(title, {"what": "gateway beside the fleet page", **asked, **compared}, interval[0] > 1)
    report.row(title, {"what": "fleet page beside the gateway", "requests/s": rate, **_spread(pages)})


async def _turns(
    gateway: Gateway, key: str, look: Callable[[float], Future[Times]], given: argparse.Namespace
) -> tuple[list[Times], list[Times], Times]:
    """Seconds of the gateway's answers in each turn, alone and beside the pages, and of the pages."""
    alone, beside, pages = list[Times](), list[Times](), Times()
    limits = httpx.Limits(max_connections=256)
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(headers=headers, timeout=60, limits=limits) as asking:
        body = {
            "model": "team/bench",
            "messages": [{"role": "user", "content": "Who are you?"}],
            "max_tokens": 8,
            "temperature": 0,
        }

        async def ask() -> None:
            answer = await asking.post(f"{gateway.url}/chat/completions", json=body)
            assert answer.status_code == 200, answer.text

        await _at_a_rate(QUESTIONS_PER_SECOND, 2.0, ask)
        for _ in range(given.turns):
            alone.append(await _at_a_rate(QUESTIONS_PER_SECOND, given.seconds, ask))
            looking = look(given.seconds)
            beside.append(await _at_a_rate(QUESTIONS_PER_SECOND, given.seconds, ask))
            pages += await asyncio.wrap_future(looking)
    return alone, beside, pages


def _pages(url: str, cookies: dict[str, str], seconds: float) -> Times:
    """Seconds of the fleet page, asked for `PAGES_PER_SECOND` times a second over one connection."""
    where = urlsplit(url)
    cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
    request = f"GET {where.path or '/'} HTTP/1.1\r\nhost: {where.netloc}\r\ncookie: {cookie}\r\n\r\n".encode()
    times, began = Times(), time.perf_counter()
    with socket.create_connection((where.hostname, where.port), timeout=60) as connection:
        for number in range(round(seconds * PAGES_PER_SECOND)):
            due = began + number / PAGES_PER_SECOND
            time.sleep(max(0.0, due - time.perf_counter()))
            connection.sendall(request)
            _take(connection)
            times.append(time.perf_counter() - due)
    return times


def _take(connection: socket.socket) -> None:
    """Read one answer. http.client would take three times as long, on the cores that are measured."""
    read = b""
    while b"\r\n\r\n" not in read:
        read += connection.recv(1 << 17)
    head, _, body = read.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    length = re.search(rb"content-length: (\d+)", head)
    assert length is not None, head
    missing = int(length[1]) - len(body)
    while missing > 0:
        missing -= len(connection.recv(1 << 17))


async def _at_a_rate(rate: float, seconds: float, ask: Callable[[], Awaitable[None]]) -> Times:
    """Begin a request at each of its times; seconds from then to its answer."""
    times, began = Times(), time.perf_counter()

    async def one(due: float) -> None:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await ask()
        times.append(time.perf_counter() - due)

    await asyncio.gather(*(one(began + number / rate) for number in range(round(seconds * rate))))
    return times


def _ratio(beside: list[Times], alone: list[Times]) -> tuple[float, list[float]]:
    """Geometric mean of the pairs' ratios, and Student's 95 % interval of it."""
    pairs = zip(beside, alone, strict=True)
    logs = [math.log(statistics.median(one) / statistics.median(other)) for one, other in pairs]
    found = ttest_1samp(logs, 0).confidence_interval(0.95)
    return math.exp(statistics.mean(logs)), [math.exp(found.low), math.exp(found.high)]


def _spread(times: Times) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=100)
    return {"p50 (ms)": 1000 * cuts[49], "p95 (ms)": 1000 * cuts[94], "p99 (ms)": 1000 * cuts[98]}


def _left_open(report: Report, url: str, state: StorageState, pid: int, changes: int) -> None:
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
            report.row(
                "A fleet page left open",
                {
                    "changes more": number,
                    "heap (MB)": heap,
                    "document nodes": document["nodes"],
                    "listeners": document["jsEventListeners"],
                    "server (MB)": server.memory_info().rss / 1e6,
                },
            )
        browser.close()


if __name__ == "__main__":
    main()
