"""Our engine on llama.cpp beside llama-server of the same llama.cpp: same file, adapters and threads.

    python -m tests.bench.llama_server PROGRAM [--rounds 3] [--answer 64] [--only WORDS]

PROGRAM is a `llama-server` built from the sources that come with llama-cpp-python's source distribution
(`cmake -B build -DLLAMA_CURL=OFF && cmake --build build --target llama-server`). SmolLM2-135M in Q4_1; 1, 4
and 16 clients, each asking again as soon as it has its answer, prompts of 32 and 1,024 tokens that have
nothing in common, without an adapter, with one and with sixteen. Both servers are up, and asked in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import itertools
import json
import random
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from serving.cores import usable_cores
from serving.engine.settings import EngineSettings
from serving.llama_cpp.engine import LlamaCppEngine
from tests.bench.adapters import make_adapter
from tests.bench.plan_serve import WORDS, packaged
from tests.bench.results import Report
from tests.reliability.adapters import connected

CLIENTS, PROMPTS, ADAPTERS = (1, 4, 16), (32, 1024), (0, 1, 16)
RANK = 16


@dataclass(frozen=True)
class Case:
    """A load."""

    clients: int
    prompt: int
    adapters: int

    @property
    def label(self) -> str:
        """As the table has it."""
        adapters = "one adapter" if self.adapters == 1 else f"{self.adapters or 'no'} adapters"
        return f"{self.clients} at once, prompts of {self.prompt:,}, {adapters}"


@dataclass(frozen=True)
class Spoken:
    """What a server answered: tokens a second, and the seconds until each answer's first token."""

    rate: float
    first: list[float]


@dataclass(frozen=True)
class Server:
    """Where to ask, and what in a request names each of the adapters (the base where there are none)."""

    http: httpx.AsyncClient
    adapters: Sequence[dict[str, Any]]


async def ask(server: Server, case: Case, draw: random.Random, answer: int) -> tuple[float, float, int]:
    """When the first token came, when the last, and how many."""
    prompt = " ".join(draw.choices(WORDS, k=case.prompt - 1))
    body = {
        "prompt": prompt,
        "max_tokens": answer,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
        **draw.choice(server.adapters),
    }
    began, first, count = time.perf_counter(), 0.0, 0
    async with server.http.stream("POST", "/v1/completions", json=body) as reply:
        assert reply.status_code == 200, await reply.aread()
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                first = first or time.perf_counter() - began
                count = (json.loads(line[6:]).get("usage") or {}).get("completion_tokens", count)
    return first, time.perf_counter(), count


async def load(server: Server, case: Case, answer: int, seed: int) -> Spoken:
    """Each client asks several times, so that all are at work for most of the time."""
    draw, each = random.Random(seed), 2 if case.prompt > 100 else 4
    done: list[tuple[float, float, int]] = []

    async def client() -> None:
        for _ in range(each):
            done.append(await ask(server, case, draw, answer))

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(case.clients)))
    last = max(end for _, end, _ in done)
    return Spoken(sum(count for *_, count in done) / (last - began), [first for first, *_ in done])


@contextlib.asynccontextmanager
async def theirs(program: Path, base: Path, adapter: Path, case: Case, answer: int) -> AsyncIterator[Server]:
    """llama-server with so many slots and threads; the adapters are one file under several numbers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    context = case.clients * (case.prompt + answer)
    argv = [
        program, "--model", base, "--host", "127.0.0.1", "--port", port, "--ctx-size", context,
        "--parallel", case.clients, "--threads", usable_cores(), "--lora-init-without-apply",
    ]  # fmt: skip
    for _ in range(case.adapters):
        argv += ["--lora", adapter]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(list(map(str, argv)), stdout=quiet, stderr=quiet) as process:
        try:
            fresh = httpx.Limits(max_keepalive_connections=0)  # it closes one that is idle for 5 s
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", timeout=600, limits=fresh
            ) as http:
                await ready(http, process)
                named = [{"lora": [{"id": number, "scale": 1.0}]} for number in range(case.adapters)]
                yield Server(http, named or [{}])
        finally:
            process.terminate()


async def ready(http: httpx.AsyncClient, process: subprocess.Popen[bytes]) -> None:
    """Return once it answers that it is well."""
    while process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if (await http.get("/health")).status_code == 200:
                return
        await asyncio.sleep(0.1)
    raise SystemExit("llama-server ended before it was ready")


@contextlib.asynccontextmanager
async def ours(base: Path, adapter: Path, case: Case, answer: int, folder: Path) -> AsyncIterator[Server]:
    """Our engine, as the gateway starts it."""
    settings = EngineSettings(case.prompt + answer, case.clients, 64, case.adapters)
    async with LlamaCppEngine("b" * 64, base, settings, folder / "log") as engine, connected(engine) as http:
        digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(case.adapters)]
        names = [await engine.load_adapter(digest, adapter) for digest in digests]
        yield Server(http, [{"model": name} for name in names or [engine.base]])


async def compare(program: Path, base: Path, adapter: Path, case: Case, given: argparse.Namespace) -> Any:
    """What each said in every round but the first, which warms up."""
    with tempfile.TemporaryDirectory() as scratch:
        async with (
            ours(base, adapter, case, given.answer, Path(scratch)) as mine,
            theirs(program, base, adapter, case, given.answer) as other,
        ):
            rounds = []
            for number in range(given.rounds + 1):
                pair = [await load(server, case, given.answer, number) for server in (mine, other)]
                rounds.append(pair)
    return rounds[1:]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("program", type=Path)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--answer", type=int, default=64)
    arguments.add_argument("--only", default="", help="cases whose label has these words")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch, Report("llama_server", "llama-cpp-python") as report:
        base, adapter = packaged(), make_adapter(Path(scratch), RANK)
        for case in itertools.starmap(Case, itertools.product(CLIENTS, PROMPTS, ADAPTERS)):
            if given.only not in case.label or case.adapters > 1 == case.clients:
                continue
            rounds = asyncio.run(compare(given.program, base, adapter, case, given))
            rate = statistics.median(mine.rate / other.rate for mine, other in rounds)
            waits = [[statistics.median(said.first) for said in pair] for pair in rounds]
            wait = statistics.median(mine / other for mine, other in waits)
            report.row(
                "Our engine beside llama-server",
                {
                    "load": case.label,
                    "tokens/s": statistics.median(mine.rate for mine, _ in rounds),
                    "llama-server's": statistics.median(other.rate for _, other in rounds),
                    "tokens/s / llama-server": rate,
                    "first token (ms)": 1000 * statistics.median(mine for mine, _ in waits),
                    "llama-server's (ms)": 1000 * statistics.median(other for _, other in waits),
                    "first token / llama-server": wait,
                },
                behind=rate < 0.95 or wait > 1.05,
            )


if __name__ == "__main__":
    main()
