"""What structured answers cost, and what schemas made to do harm cost others: python -m tests.bench.schemas

SmolLM2-135M in Q4_1 on our engine. Two clients ask for answers of 16 tokens, one after the other, while two
more ask for as many tokens as text, within a usual schema, or within one that is made to hold the engine up
after another (`tests.serving.schema_bombs`), or within one that takes the longest to compile and that nobody
has sent yet; in short turns, each time in another order, so that a noisy machine troubles all alike. The
interval of the ratio comes from drawing the rounds again.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from serving.cores import usable_cores
from serving.engine.settings import EngineSettings
from serving.llama_cpp.engine import LlamaCppEngine
from tests.bench.plan_serve import packaged
from tests.bench.results import Report
from tests.reliability.adapters import connected
from tests.serving.schema_bombs import bombs

OTHERS, CLIENTS, TOKENS = 2, 2, 16
DRAWS = 1000
IMPATIENCE = 0.5
"""Seconds after which who has to wait asks again all the same."""
USUAL = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "guests": {"type": "integer", "minimum": 1, "maximum": 9},
        "kind": {"enum": ["single", "double", "suite"]},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
    },
    "required": ["city", "guests", "kind", "tags"],
    "additionalProperties": False,
}
Schemas = Iterator[dict[str, Any] | None]


def large() -> Schemas:
    """Schemas that take 200 ms to compile, none of them twice."""
    for number in itertools.count():
        yield {"type": "object", "properties": {f"{number:x}x{index:x}": True for index in range(1900)}}


async def ask(http: httpx.AsyncClient, model: str, schema: dict[str, Any] | None, salt: str = "") -> int:
    """The status: 200, 400 or 429."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Book a room for two people."}],
        "max_tokens": TOKENS,
        "temperature": 1,
    } | ({"cache_salt": salt} if salt else {})
    if schema is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    answer = await http.post("/v1/chat/completions", json=body)
    assert answer.status_code in (200, 400, 429), answer.text
    if answer.status_code == 429:
        await asyncio.sleep(IMPATIENCE)
    return answer.status_code


async def beside(
    http: httpx.AsyncClient, model: str, name: str, schemas: Schemas, seconds: float
) -> tuple[list[float], Counter[int]]:
    """Seconds that each plain answer took while others asked within `schemas`, and what these got.

    `name`: the tenant that the others are."""
    ends, times, got = time.monotonic() + seconds, list[float](), Counter[int]()

    async def plain() -> None:
        while time.monotonic() < ends:
            began = time.perf_counter()
            await ask(http, model, None)
            times.append(time.perf_counter() - began)

    async def within() -> None:
        while time.monotonic() < ends:
            got[await ask(http, model, next(schemas), name)] += 1

    await asyncio.gather(*(plain() for _ in range(CLIENTS)), *(within() for _ in range(OTHERS)))
    return times, got


async def measure(report: Report, engine: LlamaCppEngine, rounds: int, seconds: float) -> None:
    named: dict[str, Callable[[], Schemas]] = {
        "plain text": lambda: itertools.repeat(None),
        "a usual schema": lambda: itertools.repeat(USUAL),
        "schemas made to do harm": lambda: itertools.cycle([schema for _, schema in bombs()]),
        "large schemas, none twice": large,
    }
    schemas = {name: make() for name, make in named.items()}
    times: dict[str, list[list[float]]] = {name: [] for name in named}
    """Of each round."""
    got: dict[str, Counter[int]] = {name: Counter() for name in named}
    async with connected(engine) as http:
        await ask(http, engine.base, USUAL)
        for number in range(rounds):
            order = list(named)
            for name in order[number % len(order) :] + order[: number % len(order)]:
                more, counted = await beside(http, engine.base, name, schemas[name], seconds)
                times[name].append(more)
                got[name] += counted
    first = next(iter(named))
    for name in named:
        p50, p99 = _quantiles(times[name])
        against = _quantiles(times[first])
        low, high = _interval(times[name], times[first])
        report.row(
            f"Two clients' plain answers of {TOKENS} tokens while two others ask for",
            {
                "the others ask for": name,
                "plain answers": sum(map(len, times[name])),
                "p50 (ms)": 1000 * p50,
                "p99 (ms)": 1000 * p99,
                "p50 / beside plain text": p50 / against[0],
                "p99 / beside plain text": p99 / against[1],
                "p99 ratio, 95 %": (low, high),
                "the others' answers": got[name][200],
                "refused": got[name][400],
                "had to wait": got[name][429],
            },
            behind=p99 / against[1] > 1.2,
        )


def _quantiles(rounds: list[list[float]]) -> tuple[float, float]:
    cuts = statistics.quantiles(itertools.chain.from_iterable(rounds), n=100)
    return cuts[49], cuts[98]


def _interval(rounds: list[list[float]], against: list[list[float]]) -> tuple[float, float]:
    """95 % of the ratio of the p99, from rounds drawn again as pairs."""
    draw, ratios = random.Random(0), list[float]()
    for _ in range(DRAWS):
        drawn = draw.choices(range(len(rounds)), k=len(rounds))
        one, other = ([times[number] for number in drawn] for times in (rounds, against))
        ratios.append(_quantiles(one)[1] / _quantiles(other)[1])
    cuts = statistics.quantiles(ratios, n=40)
    return cuts[0], cuts[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=45)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each of the three in a round")
    given = parser.parse_args()
    with Report("schemas", "llama-cpp-python", "llguidance") as report:
        asyncio.run(_run(report, given.rounds, given.seconds))


async def _run(report: Report, rounds: int, seconds: float) -> None:
    settings = EngineSettings(context_length=512, parallel=CLIENTS + OTHERS, queue=64, threads=usable_cores())
    engine = LlamaCppEngine("b" * 64, packaged(), settings, Path("/dev/null"))
    await engine.start()
    try:
        await measure(report, engine, rounds, seconds)
    finally:
        await engine.stop()


if __name__ == "__main__":
    main()
