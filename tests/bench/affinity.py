"""Four times as many adapters as an engine has slots for: `python -m tests.bench.affinity [--seconds 15]`.

Two replicas with real engines (llama.cpp on a pico base) behind the gateway. First the time to the first
text, with each adapter kept on one replica and with replicas in turn, under the same load. Then more and more
load, up to three times what the engines answer: what is answered, what is turned away, and how long the rest
waited. Load is open: requests come when they come, and a time counts from then.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import aiohttp
import uvloop

from tests.bench.results import Report
from tests.serving.canaries import QUESTIONS
from tests.serving.gateway.live_gateway import CHECKOUT, LLAMA, SLOWEST, Gateway, running, until
from tests.serving.populated_registry import PopulatedRegistry, kept_registry

LONGEST = 2.0
"""`bounds.wait_seconds`."""
CLIENTS = 24
"""That ask without a pause, to find out how much is answered at most: fewer than are turned away."""
STEPS = (0.5, 0.8, 1.0, 1.5, 2.0, 3.0)
EVENTS = ("hits", "loads", "evictions")


@dataclass
class Load:
    """Requests of all tenants to one gateway, and what came of them."""

    gateway: Gateway
    keys: dict[str, str]
    firsts: list[float] = field(default_factory=list)
    """Seconds from when a request was due to the first text of its answer."""
    wholes: list[float] = field(default_factory=list)
    """The same to its end."""
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    """How long requests came."""
    took: float = 0.0
    """How long it was until the last was answered."""

    async def ask(self, http: aiohttp.ClientSession, draw: random.Random, due: float) -> None:
        name = draw.choice(sorted(self.keys))
        body = {
            "model": f"team/{name}", "max_tokens": 8, "temperature": 0, "stream": True,
            "messages": [{"role": "user", "content": draw.choice(QUESTIONS)}],
        }  # fmt: skip
        headers = {"authorization": f"Bearer {self.keys[name]}"}
        async with http.post(f"{self.gateway.url}/chat/completions", json=body, headers=headers) as answer:
            self.counts[str(answer.status)] += 1
            if answer.status != 200:
                said = (await answer.json())["error"]
                if said["code"] != "overloaded":
                    errors = [line for line in self.gateway.log.read_text().splitlines() if '"error"' in line]
                    raise SystemExit("\n".join([f"{answer.status} {said}", *errors[-3:]]))
                return
            first = 0.0
            async for line in answer.content:
                if not first and b'"content":"' in line and b'"content":""' not in line:
                    first = time.monotonic() - due
            if not first or (line.strip() and line != b"data: [DONE]\n"):
                raise SystemExit(f"an answer without text or end: {line!r}")
        self.firsts.append(first)
        self.wholes.append(time.monotonic() - due)

    async def open(self, http: aiohttp.ClientSession, a_second: float, seconds: float, seed: int) -> None:
        """So many requests a second, at random moments, of random tenants: the same for the same seed."""
        draw, began = random.Random(seed), time.monotonic()
        due = began
        async with asyncio.TaskGroup() as group:
            while (due := due + draw.expovariate(a_second)) < began + seconds:
                await asyncio.sleep(due - time.monotonic())
                group.create_task(self.ask(http, draw, due))
        self.seconds += seconds
        self.took += time.monotonic() - began

    async def closed(self, http: aiohttp.ClientSession, seconds: float) -> None:
        """Clients that ask again at once."""
        draw, began = random.Random(0), time.monotonic()

        async def client() -> None:
            while (now := time.monotonic()) < began + seconds:
                await self.ask(http, draw, now)

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        self.seconds += seconds
        self.took += time.monotonic() - began

    def row(self) -> dict[str, float]:
        """As a table shows it."""
        firsts = [1e3 * one for one in self.firsts]
        return {
            "asked/s": sum(self.counts.values()) / self.seconds,
            "answered/s": self.counts["200"] / self.took,
            "429/s": self.counts["429"] / self.seconds,
            "TTFT p50 (ms)": round(statistics.median(firsts)),
            "TTFT p99 (ms)": round(statistics.quantiles(firsts, n=100)[98]),
            "whole p99 (ms)": round(1e3 * statistics.quantiles(self.wholes, n=100)[98]),
        }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    arguments.add_argument("--slots", type=int, default=1, help="adapters that each of the engines holds")
    given = arguments.parse_args()
    with Report("affinity", "llama-cpp-python", "aiohttp") as report, contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        populated = kept_registry(CHECKOUT, folder / "home", 4 * given.slots)
        gateways = {
            name: stack.enter_context(_running(populated, folder, name, given.slots, affinity))
            for name, affinity in (("affinity", True), ("in turn", False))
        }
        keys = _tenants(populated, list(gateways.values()))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_measure(report, gateways, keys, given.seconds))


@contextlib.contextmanager
def _running(
    populated: PopulatedRegistry, folder: Path, name: str, slots: int, affinity: bool
) -> Iterator[Gateway]:
    engine = LLAMA | {"adapters": slots, "replicas": 2, "affinity": affinity, "queue": 1024}
    with running(
        populated, folder, [engine], name=name.replace(" ", "-"), bounds={"wait_seconds": LONGEST}
    ) as one:
        yield one


def _tenants(populated: PopulatedRegistry, gateways: list[Gateway]) -> dict[str, str]:
    """Name → key of a tenant for each adapter, known to all gateways."""
    keys = {
        f"t{n}": gateways[0].tenant(f"t{n}", adapter.gguf) for n, adapter in enumerate(populated.adapters)
    }
    for gateway in gateways:
        for name, key in keys.items():
            until(partial(_serves, gateway, key), f"{name} is known")
    return keys


def _serves(gateway: Gateway, key: str) -> bool:
    answer = gateway.get("/models", key)
    return answer.status_code == 200 and bool(answer.json()["data"])


async def _measure(
    report: Report, gateways: dict[str, Gateway], keys: dict[str, str], seconds: float
) -> None:
    timeout = aiohttp.ClientTimeout(total=SLOWEST)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as http:
        most = {}
        for name, gateway in gateways.items():
            load = Load(gateway, keys)
            await load.closed(http, 3)
            load = Load(gateway, keys)
            await load.closed(http, seconds)
            most[name] = load.counts["200"] / load.took
            report.row(
                f"{CLIENTS} clients that ask again at once, {len(keys)} adapters",
                {"replica": name} | load.row(),
            )
        await _compared(report, gateways, keys, http, min(most.values()) / 2, seconds)
        await _overloaded(report, gateways["affinity"], keys, http, most["affinity"], seconds)


async def _compared(
    report: Report, gateways: dict[str, Gateway], keys: dict[str, str], http: aiohttp.ClientSession,
    a_second: float, seconds: float,
) -> None:  # fmt: skip
    """In four turns each, so that what else the machine does meets both."""
    loads = {name: Load(gateway, keys) for name, gateway in gateways.items()}
    before = {name: _events(gateway) for name, gateway in gateways.items()}
    for turn in range(4):
        for load in loads.values():
            await load.open(http, a_second, seconds / 2, seed=turn)
    for name, load in loads.items():
        events = {event: round(n - before[name][event]) for event, n in _events(load.gateway).items()}
        report.row("The same requests, at half of that", {"replica": name} | load.row() | events)


async def _overloaded(
    report: Report, gateway: Gateway, keys: dict[str, str], http: aiohttp.ClientSession, most: float,
    seconds: float,
) -> None:  # fmt: skip
    title = "More and more load, with affinity"
    for step in STEPS:
        load = Load(gateway, keys)
        await load.open(http, step * most, seconds, seed=0)
        report.row(title, {"gateway": "affinity", "load (of the most)": step} | load.row())
    report.plot(title, "load (of the most)", "answered/s", "gateway")


def _events(gateway: Gateway) -> dict[str, float]:
    return {event: gateway.number("tuneline_engine_adapter_events_total", event=event) for event in EVENTS}


if __name__ == "__main__":
    main()
