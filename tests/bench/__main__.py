"""Run benches, one after the other, and write what they find: `python -m tests.bench [NAME …] [-- OPTION …]`.

Without a name all of them. Each is a process of its own, which gets the options; one that fails, or needs
what is not here, is named at the end and hinders no other.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import sys
import time
from pathlib import Path

import psutil

from tests.bench.page import FOLDER as DOCUMENTED
from tests.bench.results import FOLDER, stamp, tables, write

SET_CHILD_SUBREAPER = 36
"""Of Linux's prctl: what outlives its parent becomes a child of this process."""
NAMES = (
    "arithmetic", "threads", "prepare", "large_data", "train", "merge", "api", "adapters", "adapter_memory",
    "affinity", "gateway", "budgets", "canaries", "commands", "served_answers", "published", "drift",
    "backup", "ui", "ui_and_gateway", "train_peers", "llama_server", "schemas", "plan_serve", "memory_limit",
    "planner", "evaluate_peers", "registry_peers", "gptq_peers",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 where any of them failed."""
    words = sys.argv[1:] if arguments is None else arguments
    own, options = (
        (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    )
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument(
        "--folder", type=Path, default=DOCUMENTED, help="for the JSON files (docs/benchmarks)"
    )
    given = parser.parse_args(own)
    if unknown := sorted(set(given.names) - set(NAMES)):
        parser.error(f"there is no bench {', '.join(unknown)}; choose from {', '.join(NAMES)}")
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1)
    failed = [name for name in given.names or NAMES if not run(name, options, given.folder.absolute())]
    if failed:
        print(f"not measured, for the reasons above: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


def run(name: str, options: list[str], folder: Path) -> bool:
    """Whether it ended well. Its file then also says which share of the cores other work had."""
    print(f"== {name}", flush=True)
    before, began, (own, every) = set(_files(folder)), time.monotonic(), used()
    command = [sys.executable, "-m", f"tests.bench.{name}", *options]
    child = os.posix_spawn(sys.executable, command, {**os.environ, FOLDER: str(folder)})
    while (ended := os.wait())[0] != child:  # engines and others that were left to this process
        pass
    seconds, after = time.monotonic() - began, used()
    others = max(0.0, (after[1] - every) - (after[0] - own)) / (seconds * (psutil.cpu_count() or 1))
    for file, _ in set(_files(folder)) - before:
        found = json.loads(file.read_text("utf-8"))
        # the kernel counts in hundredths, and what is that short times nothing
        found["others"] = round(min(1.0, others), 3) if found["seconds"] > 5 else None
        write(folder, found)
        print(f"\n{stamp(found)}\n\n{tables(found)}\n", flush=True)
    return os.waitstatus_to_exitcode(ended[1]) == 0


def used() -> tuple[float, float]:
    """Seconds of cores that ended children with theirs have had, and that everything has had, with what the
    machine under a virtual one took for itself."""
    own, every = resource.getrusage(resource.RUSAGE_CHILDREN), psutil.cpu_times()
    busy = every.user + every.nice + every.system + every.irq + every.softirq + every.steal
    return own.ru_utime + own.ru_stime, busy


def _files(folder: Path) -> list[tuple[Path, int]]:
    return [(file, file.stat().st_mtime_ns) for file in folder.glob("*.json")]


if __name__ == "__main__":
    sys.exit(main())
