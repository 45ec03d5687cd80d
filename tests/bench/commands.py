"""What the command line itself costs: python -m tests.bench.commands [--repeats 5]

Makes a home with one finished run of pico-smoke, then times commands that have no work to do there, each in
turn, so that a busy moment falls on all of them. CPU is that of all processes which the command waits for,
the one that tells Prefect among them. Where the bar is missed, the row says so and comes first.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.results import Report, Row

POLICY = "tasks: [{task: routing, metric: exact_match, role: keep, against: parent, margin: 0.2}]\n"


@dataclass(frozen=True)
class Command:
    """What is timed, and the bar for its seconds by the clock, where there is one."""

    label: str
    words: tuple[str, ...]
    bar: float | None = None


GATE = ("gate", "policy.yaml", "--candidate", "pico/smoke", "--channel", "pico/smoke")
COMMANDS = (
    Command("tuneline --help", ("--help",), 0.15),
    Command("tuneline artifacts ls", ("artifacts", "ls"), 0.5),
    Command("tuneline channels", ("channels",)),
    Command("tuneline gate, 32 items", GATE, 0.8),
    Command("tuneline check pico-smoke", ("check", "pico-smoke"), 5.0),
    Command("tuneline run pico-smoke, all known", ("run", "pico-smoke"), 6.0),
)


def answer(home: Path, *words: str) -> str:
    """What a command of this installation prints in that home. Ends the bench where it failed."""
    # Modules compiled anew each time are not what users have.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [Path(sys.executable).with_name("tuneline"), *words],
        env={**inherited, "TUNELINE_HOME": str(home)},
        cwd=home.parent,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)}: exit code {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def timed(home: Path, *words: str) -> tuple[float, float]:
    """Seconds by the clock, and of CPU."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    answer(home, *words)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@contextmanager
def finished() -> Iterator[tuple[Path, tuple[float, float]]]:
    """A home where pico-smoke was run, and what that took. Its endpoint ends with the block."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "home"
        (home.parent / "policy.yaml").write_text(POLICY)
        try:
            yield home, timed(home, "run", "pico-smoke")
        finally:
            if (home / "registry.db").exists():
                for endpoint in json.loads(answer(home, "endpoints", "ls", "--json")):
                    answer(home, "endpoints", "stop", endpoint["id"])


def row(command: Command, measured: list[tuple[float, float]]) -> tuple[Row, bool]:
    """Its line of the table, and whether its bar is missed."""
    clock, cpus = zip(*measured, strict=True)
    found = {
        "median (s)": statistics.median(clock),
        "fastest (s)": min(clock),
        "CPU (s)": statistics.median(cpus),
    }
    bar = command.bar
    over = {"bar (s)": bar, "median / bar": None if bar is None else found["median (s)"] / bar}
    return {"command": f"`{command.label}`", **found, **over}, bar is not None and found["median (s)"] > bar


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    packages = ("prefect", "sqlalchemy", "pydantic", "scipy")
    with Report("commands", *packages) as report, finished() as (home, (seconds, cpu)):
        times: dict[Command, list[tuple[float, float]]] = {command: [] for command in COMMANDS}
        for _ in range(repeats):
            for command in COMMANDS:
                times[command].append(timed(home, *command.words))
        title = f"Commands that have no work to do, {repeats} times"
        for measured in times.items():
            report.row(title, *row(*measured))
        once = {
            "command": "`tuneline run pico-smoke`, in a new home, once",
            "median (s)": seconds,
            "CPU (s)": cpu,
        }
        report.row(title, once)


if __name__ == "__main__":
    main()
