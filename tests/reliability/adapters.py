"""Does each request get the answer of its own adapter, whatever happens to the others meanwhile?

    python -m tests.reliability.adapters --engine vllm --requests 10000 [--tenants 16] [--slots 6]

Tenants ask a real engine at once, streamed and not, each with a salt of its own and beginnings used again,
while adapters are loaded on demand, evicted, unloaded, and channels are moved and rolled back. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from serving.engine.adapter_pool import AdapterPool
from serving.errors import Overloaded
from tests.seconds import seconds
from tests.serving.canaries import QUESTIONS, Canary, Family, kept_family
from tests.serving.engine.both_engines import AnyEngine, adapter_of, engine_of

CHECKOUT = Path(__file__).resolve().parents[2]
PAUSE = 0.05
"""Seconds after a 429, which is no answer and no loss."""


@dataclass
class Trial:
    """What is asked for, by whom, and what came of it."""

    engine: str
    channels: list[Canary]
    """Per tenant, the artifact that its channel points to now."""
    left: int
    draw: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


async def tenant(trial: Trial, number: int, pool: AdapterPool, http: httpx.AsyncClient) -> None:
    """Ask until the trial's requests are used up."""
    while trial.left > 0:
        trial.left -= 1
        canary, question = trial.channels[number], trial.draw.choice(QUESTIONS)
        while (said := await attempt(trial, number, canary, question, pool, http)) is None:
            trial.counts["turned away, asked again"] += 1
            await asyncio.sleep(PAUSE)
        if said == canary.answer:
            trial.counts["right"] += 1
        else:
            trial.wrong.append(f"{said!r} instead of {canary.answer!r}")


async def attempt(
    trial: Trial, number: int, canary: Canary, question: str, pool: AdapterPool, http: httpx.AsyncClient
) -> str | None:
    """The answer; None for a 429."""
    stream = trial.draw.random() < 0.5
    body = {
        "messages": [{"role": "user", "content": question}], "max_tokens": 8, "temperature": 0,
        "cache_salt": f"tenant-{number}", "stream": stream,
    }  # fmt: skip
    try:
        async with pool.use(canary.digest, adapter_of(trial.engine, canary)) as name:
            said = http.stream("POST", "/v1/chat/completions", json=body | {"model": name})
            async with said as answer:
                if answer.status_code == 429:
                    return None
                lines = [line async for line in answer.aiter_lines()]
    except Overloaded:
        return None
    if answer.status_code != 200:
        return f"{answer.status_code} {''.join(lines)}"
    return read_stream(lines) if stream else str(json.loads(lines[0])["choices"][0]["message"]["content"])


def read_stream(lines: list[str]) -> str:
    """The text of a stream; what is no complete one reads as an error."""
    events = [line.removeprefix("data: ") for line in lines if line]
    if not events or events[-1] != "[DONE]":
        return f"a stream that did not end: {events[-1:]}"
    return "".join(json.loads(e)["choices"][0]["delta"].get("content") or "" for e in events[:-1])


async def disturb(trial: Trial, changes: int, total: int, pool: AdapterPool, family: Family) -> None:
    """Unload, move and roll back, evenly over the trial's requests."""
    before: dict[int, Canary] = {}
    for done in range(changes):
        while trial.left > total * (1 - (done + 1) / (changes + 1)):
            await asyncio.sleep(0.005)
        number = trial.draw.randrange(len(trial.channels))
        match trial.draw.choice(["unload", "move", "roll back"]):
            case "unload":
                trial.counts["unloads"] += 1
                await pool.drop(trial.channels[number].digest)
            case "roll back" if number in before:
                trial.counts["rollbacks"] += 1
                trial.channels[number] = before.pop(number)
            case _:
                trial.counts["moves"] += 1
                before[number] = trial.channels[number]
                trial.channels[number] = trial.draw.choice(family.canaries)


async def run(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The whole trial on an engine of its own; see the module."""
    family = kept_family(CHECKOUT, given.adapters)
    engine = engine_of(
        given.engine, family, folder / "engine.log", adapters=given.slots, parallel=given.parallel,
        threads=None,
    )  # fmt: skip
    async with engine:
        return await trial(given, engine, family)


async def trial(given: argparse.Namespace, engine: AnyEngine, family: Family) -> dict[str, Any]:
    """The trial on an engine that runs."""
    channels = [family.canaries[number % len(family.canaries)] for number in range(given.tenants)]
    one = Trial(given.engine, channels, given.requests, random.Random(given.seed))
    began, restarts = time.monotonic(), engine.restarts
    async with connected(engine) as http:
        pool = AdapterPool(engine)
        workers = [tenant(one, number % given.tenants, pool, http) for number in range(given.at_once)]
        await asyncio.gather(disturb(one, given.changes, given.requests, pool, family), *workers)
        health = await engine.health()
    answered = one.counts["right"] + len(one.wrong)
    return {
        "requests": given.requests, "tenants": given.tenants, "adapters": len(family.canaries),
        "slots": given.slots, "at once": given.at_once, "wrong": len(one.wrong),
        "lost": given.requests - answered, **one.counts, "pool": asdict(pool.counts), "engine": health,
        "restarts": engine.restarts - restarts, "seconds": round(time.monotonic() - began, 1),
        "examples": one.wrong[:5],
    }  # fmt: skip


@asynccontextmanager
async def connected(engine: AnyEngine) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client on the engine's socket."""
    limits = httpx.Limits(max_connections=None)
    transport = httpx.AsyncHTTPTransport(uds=str(engine.socket), limits=limits)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=seconds(300)) as http:
        yield http


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--engine", choices=("llama.cpp", "vllm"), default="llama.cpp")
    for name, default, text in (
        ("requests", 10_000, "how many in all"), ("tenants", 16, "each with a channel and a salt"),
        ("adapters", 16, "trained for the purpose"), ("slots", 6, "adapters loaded at once"),
        ("at-once", 48, "requests at once"), ("parallel", 4, "answers decoded at once"),
        ("changes", 200, "unloads, moves and rollbacks"), ("seed", 0, "of all choices"),
    ):  # fmt: skip
        arguments.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default {default})")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(run(given, Path(folder)))
    print(json.dumps(report, indent=1))
    return 1 if report["wrong"] or report["lost"] or report["restarts"] else 0


if __name__ == "__main__":
    sys.exit(main())
