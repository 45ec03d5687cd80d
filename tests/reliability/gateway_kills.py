"""kill -9 of the engine, the gateway and a client in the middle of streams: what becomes of the service?

    python -m tests.reliability.gateway_kills --kills 30

Tenants stream without a pause, each from a budget. After each kill: seconds until a right answer comes again,
and until nothing is left of what was killed; a killed gateway is started again, as an init system would. At
the end every budget has at least what was delivered, at most its limit, and nothing reserved. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import yaml

from registry import Registry
from registry.tenancy.tenants import TenantLimits
from tests.seconds import seconds
from tests.serving.gateway.live_gateway import CHECKOUT, LLAMA, marked, start, stop
from tests.serving.populated_registry import WAIVER, PopulatedRegistry, kept_registry

ALLOWED_SECONDS = seconds(30.0)
PLENTY, LITTLE = 10_000_000, 3_000
CLIENT = """
import httpx, sys
url, key, model = sys.argv[1:]
messages = [{"role": "user", "content": "Go on"}]
body = {"model": model, "messages": messages, "max_tokens": 200, "stream": True}
headers = {"authorization": "Bearer " + key}
with httpx.stream("POST", url + "/chat/completions", json=body, headers=headers, timeout=60) as answer:
    for line in answer.iter_lines():
        print(line, flush=True)
"""


@dataclass
class Life:
    """One gateway process, from its start to its end."""

    process: subprocess.Popen[str]
    mark: str


@dataclass
class Trial:
    """Who asks, and what came of it."""

    populated: PopulatedRegistry
    folder: Path
    registry: Registry
    url: str
    config: Path
    keys: dict[str, str]
    expected: dict[str, str]
    """Per tenant, the only right answer; none for the one that streams for long."""
    draw: random.Random
    delivered: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lives: int = 0
    streaming: int = 0
    """Streams of which something has come, and not the end."""

    def begin(self) -> Life:
        """Start the gateway; returns when it listens."""
        self.lives += 1
        mark = f"{os.getpid()}-{self.folder.name}-{self.lives}"
        return Life(start(self.config, self.populated.home, self.folder / "gateway.log", mark)[0], mark)

    def tenant(self, name: str, artifact: str, answer: str | None, limit: int) -> None:
        """Add one."""
        self.registry.channels.move(f"team/{name}", artifact, 0, waiver=WAIVER)
        limits = TenantLimits(tokens_per_day=limit)
        self.keys[name] = self.registry.tenants.add(name, f"team/{name}", "trial", limits)[2]
        if answer is not None:
            self.expected[name] = answer


async def ask(trial: Trial, http: httpx.AsyncClient, name: str) -> bool:
    """One stream; whether it came to its end. What came of it is counted."""
    body = {
        "model": f"team/{name}", "messages": [{"role": "user", "content": "Go on"}], "temperature": 0,
        "max_tokens": 8 if name in trial.expected else 150, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    headers = {"authorization": f"Bearer {trial.keys[name]}"}
    text, pieces, usage, ended = "", 0, 0, False
    try:
        async with http.stream("POST", "/chat/completions", json=body, headers=headers) as answer:
            if answer.status_code != 200:
                trial.counts[str(answer.status_code)] += 1
                return False
            async for line in answer.aiter_lines():
                if line == "data: [DONE]":
                    ended = True
                elif line:
                    said = json.loads(line.removeprefix("data: "))
                    usage = (said.get("usage") or {}).get("total_tokens", usage)
                    piece = "".join(one["delta"].get("content") or "" for one in said.get("choices", ()))
                    trial.streaming += bool(piece and not text)
                    pieces += bool(piece)
                    text += piece
    except httpx.HTTPError as error:
        trial.counts[type(error).__name__] += 1
    trial.streaming -= bool(text)
    trial.delivered[name] += usage or pieces
    trial.counts["whole" if ended else "cut off"] += ended or bool(text)
    expected = trial.expected.get(name)
    if expected is not None and not (text == expected if ended else expected.startswith(text)):
        trial.wrong.append(f"{name}: {text!r}, expected {expected!r}")
    return ended


async def crowd(trial: Trial, http: httpx.AsyncClient, name: str, enough: asyncio.Event) -> None:
    """One tenant, that asks again and again."""
    while not enough.is_set():
        if not await ask(trial, http, name):
            await asyncio.sleep(0.1)


async def kill(trial: Trial, life: Life, kind: str) -> Life:
    """Kill it; returns the gateway that runs then."""
    if kind == "engine":
        (engine,) = [one for one in marked(life.mark) if "serving.llama_cpp.server" in one.cmdline()]
        engine.kill()
    elif kind == "gateway":
        life.process.kill()
        stop(life.process)
        return await asyncio.to_thread(trial.begin)
    else:
        argv = [sys.executable, "-c", CLIENT, trial.url, trial.keys["client"], "team/client"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout is not None
            for _ in range(4):
                await asyncio.to_thread(client.stdout.readline)
            client.kill()
        trial.delivered["client"] += 1
    return life


async def again(trial: Trial, http: httpx.AsyncClient) -> float:
    """Seconds until every tenant gets a right answer."""
    began = time.monotonic()
    while not await ask(trial, http, "probe"):
        await asyncio.sleep(0.05)
        assert time.monotonic() - began < 4 * ALLOWED_SECONDS, "it never came back"
    return time.monotonic() - began


async def gone(mark: str) -> float:
    """Seconds until nothing lives that has this mark."""
    began = time.monotonic()
    while marked(mark):
        await asyncio.sleep(0.1)
        assert time.monotonic() - began < ALLOWED_SECONDS, marked(mark)
    return time.monotonic() - began


async def run(trial: Trial, kills: int) -> dict[str, Any]:
    """All kills, one after another."""
    life, enough = trial.begin(), asyncio.Event()
    back: dict[str, list[float]] = {"engine": [], "gateway": [], "client": []}
    orphans: list[float] = []
    async with httpx.AsyncClient(base_url=trial.url, timeout=seconds(60)) as http:
        await again(trial, http)
        names = [name for name in trial.keys if name not in ("probe", "client")]
        tasks = [asyncio.create_task(crowd(trial, http, name, enough)) for name in names]
        for number in range(kills):
            while not trial.streaming:
                await asyncio.sleep(0.01)
            await asyncio.sleep(trial.draw.random() * 0.2)
            kind, before, began = list(back)[number % 3], life, time.monotonic()
            life = await kill(trial, life, kind)
            await again(trial, http)
            back[kind].append(time.monotonic() - began)
            if before is not life:
                orphans.append(await gone(before.mark))
        enough.set()
        await asyncio.gather(*tasks)
    code = await asyncio.to_thread(stop, life.process)
    await gone(life.mark)
    return report(trial, back, orphans, code)


def report(trial: Trial, back: dict[str, list[float]], orphans: list[float], code: int) -> dict[str, Any]:
    """What there is to tell."""
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    spent = {name: trial.registry.budgets.spent(name, day) for name in trial.keys}
    over = [name for name, (used, _) in spent.items() if used > (LITTLE if name == "poor" else PLENTY)]
    under = [name for name, (used, _) in spent.items() if used < trial.delivered[name]]
    slowest = max(max(times, default=0.0) for times in back.values())
    return {
        "kills": {kind: len(times) for kind, times in back.items()},
        "back after, s (median, longest)": {
            kind: [round(statistics.median(times), 2), round(max(times), 2)]
            for kind, times in back.items()
            if times
        },
        "longer than 30 s": slowest > ALLOWED_SECONDS,
        "nothing left of a killed gateway after, s": round(max(orphans, default=0.0), 2),
        "wrong": len(trial.wrong), "streams": dict(trial.counts), "exit code at the end": code,
        "budgets over their limit": over, "budgets below what was delivered": under,
        "still reserved": [name for name, (_, reserved) in spent.items() if reserved],
        "used of a budget of 3,000": spent["poor"][0], "examples": trial.wrong[:5],
    }  # fmt: skip


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def trial_in(folder: Path, seed: int) -> Trial:
    """A populated registry, its tenants and a configuration with fixed ports."""
    populated = kept_registry(CHECKOUT, folder / "home", 3)
    port, config = _free_port(), folder / "serve.yaml"
    config.write_text(yaml.safe_dump({
        "gateway": {"port": port}, "operations": {"port": 0}, "engines": [LLAMA | {"adapters": 3}],
    }))  # fmt: skip
    registry = Registry.open(populated.home)
    url = f"http://127.0.0.1:{port}/v1"
    trial = Trial(populated, folder, registry, url, config, {}, {}, random.Random(seed))
    for number, adapter in enumerate(populated.adapters):
        trial.tenant(f"t{number}", adapter.gguf, adapter.answer, PLENTY)
    trial.tenant("probe", populated.adapters[0].gguf, populated.adapters[0].answer, PLENTY)
    trial.tenant("poor", populated.adapters[1].gguf, populated.adapters[1].answer, LITTLE)
    trial.tenant("long", populated.gguf, None, PLENTY)
    trial.tenant("client", populated.gguf, None, PLENTY)
    return trial


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--kills", type=int, default=30)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trial = trial_in(Path(folder), given.seed)
        with trial.registry:
            said = asyncio.run(run(trial, given.kills))
    print(json.dumps(said, indent=1))
    failed = [said[name] for name in said if name.startswith(("longer", "wrong", "budgets", "still", "exit"))]
    return 1 if any(failed) else 0


if __name__ == "__main__":
    sys.exit(main())
