"""Through the gateway: does each request get an answer of its tenant's channel, and say whose it is?

    python -m tests.reliability.gateway --requests 10000 [--tenants 16] [--slots 6] [--changes 200]

Tenants ask `tuneline serve` at once, streamed and not, with beginnings used again, while channels are moved
and rolled back in the registry and adapters are loaded and evicted. An answer is right when it is that of the
artifact in its receipt, and this was the channel's at some moment from 2 s before the request until its end.
Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from registry.errors import NotFound
from tests.reliability.adapters import read_stream
from tests.seconds import seconds
from tests.serving.canaries import QUESTIONS, RANK
from tests.serving.gateway.live_gateway import CHECKOUT, LLAMA, Gateway, running
from tests.serving.populated_registry import PopulatedRegistry, kept_registry

ALLOWED_SECONDS = seconds(2.0)
"""A move may take so long until the gateway knows of it."""
PAUSE = 0.05
"""Seconds after a 429 or 503, which is no answer and no loss."""
VLLM = {"engine": "vllm", "context_length": 256, "max_rank": RANK}


@dataclass
class Span:
    """A channel pointed to `artifact` from a moment after `since` to one before `until` (monotonic, s)."""

    artifact: str
    since: float
    until: float = float("inf")


@dataclass
class Trial:
    """What was asked, and what came of it."""

    gateway: Gateway
    answers: dict[str, str]
    """Artifact → the only answer that it knows."""
    left: int
    draw: random.Random
    pointed: dict[int, list[Span]]
    """Per tenant, what its channel pointed to, one after another."""
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    stale: list[float] = field(default_factory=list)
    """For answers of what the channel had left before the request came: how long before, in seconds."""
    said: list[tuple[int, float, float, str, str]] = field(default_factory=list)
    """Tenant, beginning, end, answer, receipt."""


async def tenant(trial: Trial, number: int, http: httpx.AsyncClient) -> None:
    """Ask until the trial's requests are used up."""
    while trial.left > 0:
        trial.left -= 1
        question, stream = trial.draw.choice(QUESTIONS), trial.draw.random() < 0.5
        began = time.monotonic()
        while (found := await attempt(trial, number, question, stream, http)) is None:
            trial.counts["turned away, asked again"] += 1
            await asyncio.sleep(PAUSE)
            began = time.monotonic()
        trial.said.append((number, began, time.monotonic(), *found))


async def attempt(
    trial: Trial, number: int, question: str, stream: bool, http: httpx.AsyncClient
) -> tuple[str, str] | None:
    """The answer and its receipt; None for a 429 or 503."""
    body = {
        "model": f"team/t{number}", "messages": [{"role": "user", "content": question}], "max_tokens": 8,
        "temperature": 0, "stream": stream,
    }  # fmt: skip
    headers = {"authorization": f"Bearer {trial.gateway.keys[f't{number}']}"}
    async with http.stream("POST", "/chat/completions", json=body, headers=headers) as answer:
        if answer.status_code in (429, 503):
            trial.counts[str(answer.status_code)] += 1
            return None
        lines = [line async for line in answer.aiter_lines()]
    receipt = answer.headers.get("x-tuneline-artifact", "")
    if answer.status_code != 200:
        return f"{answer.status_code} {''.join(lines)}", receipt
    said = read_stream(lines) if stream else json.loads(lines[0])["choices"][0]["message"]["content"]
    return str(said), receipt


def judge(trial: Trial, number: int, began: float, ended: float, said: str, receipt: str) -> None:
    """Find what is wrong with one answer."""
    expected = trial.answers.get(receipt)
    if said != expected:
        trial.wrong.append(f"{said!r} with the receipt {receipt[:12]!r}, expected {expected!r}")
        return
    spans = [one for one in trial.pointed[number] if one.artifact == receipt and one.since <= ended]
    late = min((began - one.until for one in spans), default=float("inf"))
    if late > 0:
        trial.stale.append(late)
    if late > ALLOWED_SECONDS:
        trial.wrong.append(f"an answer of what the channel left {late:.2f} s before the request")


async def disturb(trial: Trial, changes: int, total: int) -> None:
    """Move channels and roll them back, evenly over the trial's requests."""
    channels = trial.gateway.registry.channels
    for done in range(changes):
        while trial.left > total * (1 - (done + 1) / (changes + 1)):
            await asyncio.sleep(0.005)
        number = trial.draw.randrange(len(trial.pointed))
        name = f"team/t{number}"
        last, began = trial.pointed[number][-1], time.monotonic()
        found = None
        if trial.draw.random() < 0.5:
            with contextlib.suppress(NotFound):  # it is back at its first artifact
                found = (await asyncio.to_thread(channels.rollback, name, "a trial", "trial")).artifact_id
        trial.counts["rollbacks" if found else "moves"] += 1
        if found is None:
            found = trial.draw.choice([one for one in trial.answers if one != last.artifact])
            await asyncio.to_thread(trial.gateway.move, name, found)
        last.until = time.monotonic()
        trial.pointed[number].append(Span(found, began))


async def load(trial: Trial, given: argparse.Namespace) -> None:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=trial.gateway.url, limits=limits, timeout=seconds(300)) as http:
        workers = [tenant(trial, number % given.tenants, http) for number in range(given.at_once)]
        await asyncio.gather(disturb(trial, given.changes, given.requests), *workers)


def run(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The whole trial; see the module."""
    populated = kept_registry(CHECKOUT, folder / "home", given.adapters)
    adapters = {
        (adapter.gguf if given.engine == "llama.cpp" else adapter.peft): adapter.answer
        for adapter in populated.adapters
    }
    with running(populated, folder, [engine(given, populated)], name="trial") as gateway:
        ids = list(adapters)
        pointed = {}
        for number in range(given.tenants):
            gateway.tenant(f"t{number}", ids[number % len(ids)])
            pointed[number] = [Span(ids[number % len(ids)], time.monotonic())]
        trial = Trial(gateway, adapters, given.requests, random.Random(given.seed), pointed)
        began = time.monotonic()
        asyncio.run(load(trial, given))
        seconds = time.monotonic() - began
        for one in trial.said:
            judge(trial, *one)
        return report(trial, given, seconds)


def engine(given: argparse.Namespace, populated: PopulatedRegistry) -> dict[str, Any]:
    """Its section of serve.yaml."""
    held = LLAMA if given.engine == "llama.cpp" else VLLM | {"model": populated.base}
    return held | {"adapters": given.slots, "parallel": given.parallel, "queue": 1024}


def report(trial: Trial, given: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """What there is to tell."""
    gateway = trial.gateway
    waits = sorted(ended - began for _, began, ended, _, _ in trial.said)
    events = {
        event: int(gateway.number("tuneline_engine_adapter_events_total", event=event))
        for event in ("hits", "loads", "evictions", "refusals")
    }
    return {
        "engine": given.engine, "requests": given.requests, "tenants": given.tenants,
        "adapters": given.adapters, "slots": given.slots, "at once": given.at_once,
        "wrong": len(trial.wrong), "lost": given.requests - len(trial.said), **trial.counts,
        "pool": events, "loads and unloads": events["loads"] + events["evictions"],
        "restarts": int(gateway.number("tuneline_engine_restarts_total")),
        "answers of what the channel had just left": len(trial.stale),
        "longest after it had left, s": round(max(trial.stale, default=0.0), 3),
        "seconds": round(seconds, 1), "requests/s": round(given.requests / seconds, 1),
        "p50 s": round(waits[len(waits) // 2], 3), "p99 s": round(waits[int(len(waits) * 0.99)], 3),
        "examples": trial.wrong[:5],
    }  # fmt: skip


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--engine", choices=["llama.cpp", "vllm"], default="llama.cpp")
    for name, default, text in (
        ("requests", 10_000, "how many in all"), ("tenants", 16, "each with a channel and a key"),
        ("adapters", 16, "trained for the purpose"), ("slots", 6, "adapters loaded at once"),
        ("at-once", 64, "requests at once"), ("parallel", 8, "answers decoded at once"),
        ("changes", 200, "moves and rollbacks"), ("seed", 0, "of all choices"),
    ):  # fmt: skip
        arguments.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default {default})")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        said = run(given, Path(folder))
    print(json.dumps(said, indent=1))
    return 1 if said["wrong"] or said["lost"] or said["restarts"] else 0


if __name__ == "__main__":
    sys.exit(main())
