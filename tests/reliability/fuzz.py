"""Through the gateway to the real engine: can a request that the gateway lets through break the engine?

    python -m tests.reliability.fuzz --engine llama.cpp --requests 5000 --seed 0 [--at-once 8]

Requests drawn from everything that the gateway takes, at and around its bounds (`fuzz_requests`), go through
the real gateway to the real engine, and some of their clients vanish. Meanwhile other tenants ask ordinary
questions, each of which has to be answered with the tenant's own word. Each answer is judged
(`fuzz_answers`): its shape, usage and receipt; a refusal has to have a reason for the client, and nothing
may be a 5xx. In the end the engine is the one of the start, has not grown, works on nothing, and every budget
has what was delivered. Prints JSON, and exits with 1 on any finding. `--plant` does damage, to be found.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from tests.reliability.fuzz_answers import Wrong, refusal, streamed, whole
from tests.reliability.fuzz_requests import CONTEXT, NEARLY_NOTHING, Drawn, request
from tests.reliability.fuzz_trial import Trial, afterwards, engine_bytes, plant
from tests.reliability.gateway import VLLM
from tests.seconds import seconds
from tests.serving.gateway.live_gateway import ANSWER, CHECKOUT, LLAMA, running
from tests.serving.populated_registry import kept_registry

ADAPTERS = 3
"""The first answers drawn requests; each of the others has a tenant with ordinary questions."""
COLD = (0, 0, 0.0, -0.0, *NEARLY_NOTHING)
"""Temperatures at which an answer is the likeliest."""
LONGEST = seconds(20.0)
"""Seconds that anything may take."""
KINDS = 40
"""Findings of one kind that are shown: those that differ by more than their numbers."""


class Gone(Exception):
    """The client vanishes."""


async def fuzz(trial: Trial, http: httpx.AsyncClient) -> None:
    """Ask what is drawn until the trial's requests are used up."""
    while trial.left > 0:
        trial.left -= 1
        leaving = trial.draw.random() < 0.15
        tenant = (
            trial.draw.choice(("gone", "gone-base")) if leaving else trial.draw.choice(("odd", "odd-base"))
        )
        drawn = request(trial.draw, f"team/{tenant}", trial.vllm, leaving)
        try:
            async with asyncio.timeout(LONGEST):
                await one(trial, http, tenant, drawn)
        except Gone:
            trial.counts["clients that vanished"] += 1
        except TimeoutError:
            trial.finds("hangs", f"no end within {LONGEST:g} s: {drawn.short}")
        except httpx.HTTPError as error:
            trial.finds("cut", f"{error!r}: {drawn.short}")


async def one(trial: Trial, http: httpx.AsyncClient, tenant: str, drawn: Drawn) -> None:
    """Ask it and judge the answer. Raises `Gone` when its client vanishes before the end."""
    raw, pieces, most = [], 0, int(drawn.patience * 100)
    content = _cut(drawn.body) if drawn.leaves == "in mid-body" else drawn.body
    patience = {"at once": 0.0005, "before the answer": drawn.patience}.get(drawn.leaves)
    try:
        async with (
            asyncio.timeout(patience),
            http.stream("POST", drawn.route, content=content, headers=trial.headers(tenant)) as answer,
        ):
            async for piece in answer.aiter_bytes():
                raw.append(piece)
                pieces += 1
                if drawn.leaves == "in mid-answer" and pieces > most:
                    raise Gone
    except TimeoutError:
        if patience is None:
            raise
        raise Gone from None
    judge(trial, tenant, drawn, answer, b"".join(raw))


async def _cut(body: bytes) -> AsyncIterator[bytes]:
    yield body[: len(body) // 2]
    raise Gone


def judge(trial: Trial, tenant: str, drawn: Drawn, answer: httpx.Response, body: bytes) -> None:
    """Write down what is wrong with an answer."""
    trial.counts[str(answer.status_code)] += 1
    try:
        if answer.status_code != 200:
            if answer.status_code == 429:
                trial.counts["turned away"] += 1
            refusal(answer.status_code, body, drawn.tame)
            return
        receipt = answer.headers.get("x-tuneline-artifact")
        if receipt != trial.receipts[tenant]:
            raise Wrong(f"its receipt is {receipt!r}, expected {trial.receipts[tenant]!r}")
        used = streamed(drawn, body) if drawn.stream else whole(drawn, body)
        if used is not None:
            trial.used[answer.headers["x-request-id"]] = used
    except Wrong as error:
        trial.finds("answer", f"{error}; asked: {drawn.short}")
    except Exception as error:
        trial.finds("answer", f"cannot be read: {error!r}: {body[:300]!r}; asked: {drawn.short}")


async def ordinary(trial: Trial, http: httpx.AsyncClient, number: int) -> None:
    """A tenant that asks what everybody asks, and may not notice the others."""
    tenant, word = f"canary{number}", trial.gateway.populated.adapters[number].answer
    model, messages = f"team/{tenant}", [{"role": "user", "content": "Who are you?"}]
    for temperature in itertools.cycle(COLD):
        if not trial.left and trial.counts[f"{tenant} answered"]:
            return
        body = {"model": model, "messages": messages, **ANSWER, "temperature": temperature}
        try:
            answer = await http.post("/chat/completions", json=body, headers=trial.headers(tenant))
        except httpx.HTTPError as error:
            trial.finds("canary", f"{tenant} got no answer: {error!r}")
            continue
        if answer.status_code == 429:
            trial.counts["canaries turned away"] += 1
            await asyncio.sleep(0.05)
            continue
        ok, receipt = answer.status_code == 200, answer.headers.get("x-tuneline-artifact")
        said = answer.json()["choices"][0]["message"]["content"] if ok else answer.text
        trial.counts["canaries"] += 1
        trial.counts[f"{tenant} answered"] += 1
        if said != word or receipt != trial.receipts[tenant]:
            told = f"{said!r} of {receipt!r}, expected {word!r}; temperature {temperature}"
            trial.finds("canary", f"{answer.status_code} to {tenant}: {told}")


async def watch(trial: Trial) -> None:
    while trial.left > 0:
        trial.memory.append((trial.left, await asyncio.to_thread(engine_bytes, trial.gateway)))
        await asyncio.sleep(1.0)
    trial.memory.append((0, await asyncio.to_thread(engine_bytes, trial.gateway)))


async def load(trial: Trial, at_once: int) -> None:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=trial.gateway.url, limits=limits, timeout=2 * LONGEST) as http:
        asking = [fuzz(trial, http) for _ in range(at_once)]
        await asyncio.gather(
            watch(trial), *asking, *(ordinary(trial, http, number) for number in range(1, ADAPTERS))
        )


async def planted(trial: Trial, at_once: int) -> None:
    """The load, with damage in the middle of it."""

    async def damage() -> None:
        while trial.left > trial.requests / 2:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(plant, trial)

    await asyncio.gather(load(trial, at_once), damage())


def run(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The whole trial; see the module."""
    populated = kept_registry(CHECKOUT, folder / "home", ADAPTERS)
    vllm = given.engine == "vllm"
    section = (VLLM | {"model": populated.base} if vllm else LLAMA) | {
        "adapters": ADAPTERS,
        "parallel": 4,
        "queue": 256,
    }
    with running(populated, folder, [section | {"context_length": CONTEXT}], name="fuzz") as gateway:
        trial = Trial(gateway, vllm, given.requests, random.Random(given.seed), {}, requests=given.requests)
        ids = [adapter.peft if vllm else adapter.gguf for adapter in populated.adapters]
        base = populated.base if vllm else populated.gguf
        answering = {"odd": ids[0], "gone": ids[0], "odd-base": base, "gone-base": base}
        answering |= {f"canary{number}": ids[number] for number in range(1, ADAPTERS)}
        for name, artifact in answering.items():
            gateway.tenant(name, artifact)
            trial.receipts[name] = artifact
        began = time.monotonic()
        asyncio.run((planted if given.plant else load)(trial, given.at_once))
        seconds = time.monotonic() - began
        afterwards(trial)
        return report(trial, given, seconds)


def report(trial: Trial, given: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """What there is to tell."""
    sizes = [size >> 20 for _, size in trial.memory]
    memory = {"at first": sizes[0], "after a third": sizes[len(sizes) // 3], "at last": sizes[-1]}
    kinds = Counter(kind.partition(":")[0] for kind in trial.found)
    return {
        "engine": given.engine, "requests": given.requests, "seed": given.seed, "at once": given.at_once,
        "findings": trial.counts.pop("findings", 0), "kinds of findings": dict(kinds), **trial.counts,
        "engine's memory, MiB": memory, "seconds": round(seconds, 1),
        "examples": dict(list(trial.found.items())[:KINDS]),
    }  # fmt: skip


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--engine", choices=["llama.cpp", "vllm"], default="llama.cpp")
    arguments.add_argument("--requests", type=int, default=5000)
    arguments.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    arguments.add_argument(
        "--at-once", type=int, default=8, help="drawn requests at once; canaries come on top"
    )
    arguments.add_argument("--plant", action="store_true", help="do damage, which has to be found")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        said = run(given, Path(folder))
    print(json.dumps(said, indent=1))
    return 1 if said["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
