"""Seconds and bytes of backups and restores: `python -m tests.bench.backup --sizes 1000 10000`.

A SQLite registry of so many artifacts with tiny files (`tests.registry.large`), backed up to a directory of
the same disk, again without a change, verified, and restored into a new home with all checks.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flows.formatting import duration, size
from registry import Registry
from registry.backup import snapshot
from registry.backup.check import backup_problems
from registry.backup.make import make
from registry.backup.place import Place
from registry.backup.restore import restore
from tests.registry.large import large_registry


def timed(work: Callable[[], Any]) -> tuple[str, Any]:
    """How long it took, in words, and what it returned."""
    began = time.monotonic()
    result = work()
    return duration(time.monotonic() - began), result


def measure(folder: Path, artifacts: int) -> list[tuple[str, str, str]]:
    """What was done, how long it took, and what that was about."""
    large_registry(folder / "home", artifacts)
    place = Place(str(folder / "backups"), make=True)
    lines = []
    with Registry.open(folder / "home") as registry, Registry.open(folder / "restored") as other:
        for what in ("first backup", "again, nothing new"):
            taken, (made, files, copied) = timed(lambda: make(registry, place))
            about = f"{files} files, {size(copied)}, and a database of {size(made.database.size)}"
            lines.append((what, taken, about))
        taken, problems = timed(lambda: backup_problems(place, [made]))
        assert problems == []
        lines.append(("verify one", taken, f"{made.blobs} files, {size(made.bytes)}"))
        taken, done = timed(lambda: restore(other, place, snapshot.find(place, None)))
        assert done.problems == []
        lines.append(("restore and check", taken, f"{done.files} files, {sum(made.rows.values())} rows"))
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000], help="artifacts")
    table = Table("artifacts", "what", "time", "of", box=None)
    for artifacts in parser.parse_args(arguments).sizes:
        with tempfile.TemporaryDirectory() as folder:
            for line in measure(Path(folder), artifacts):
                table.add_row(str(artifacts), *line)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
