"""What the command line itself costs: python -m tests.bench.commands [--repeats 5]

Makes a home with one finished run of pico-smoke, then times commands that have no work to do there, each in
turn, so that a busy moment falls on all of them. CPU is that of all processes which the command waits for.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

POLICY = "tasks: [{task: routing, metric: exact_match, role: keep, against: parent, margin: 0.2}]\n"
COMMANDS = {
    "tuneline --help": ("--help",),
    "tuneline artifacts": ("artifacts",),
    "tuneline channels": ("channels",),
    "tuneline check pico-smoke": ("check", "pico-smoke"),
    "tuneline gate policy.yaml, 32 items": ("gate", "policy.yaml", "--candidate", "pico/smoke"),
    "tuneline run pico-smoke, all known": ("run", "pico-smoke"),
}


def timed(home: Path, *words: str) -> tuple[float, float]:
    """Seconds by the clock, and of CPU."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [Path(sys.executable).with_name("tuneline"), *words],
        env={**os.environ, "TUNELINE_HOME": str(home)},
        cwd=home.parent,
        capture_output=True,
        text=True,
    )
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode > 2:
        sys.exit(f"{' '.join(words)}: exit code {done.returncode}: {done.stderr[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "home"
        (home.parent / "policy.yaml").write_text(POLICY)
        seconds, cpu = timed(home, "run", "pico-smoke")
        print(f"| command | seconds, median of {repeats} | fastest | CPU |\n|---|---|---|---|")
        print(f"| tuneline run pico-smoke, in a new home, once | {seconds:.1f} | – | {cpu:.1f} |")
        times: dict[str, list[tuple[float, float]]] = {label: [] for label in COMMANDS}
        for _ in range(repeats):
            for label, words in COMMANDS.items():
                times[label].append(timed(home, *words))
        for label, measured in times.items():
            clock, cpus = zip(*measured, strict=True)
            shown = (statistics.median(clock), min(clock), statistics.median(cpus))
            print(f"| {label} | {' | '.join(f'{value:.2f}' for value in shown)} |")


if __name__ == "__main__":
    main()
