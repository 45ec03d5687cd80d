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

from flows.formatting import size
from registry import Registry
from registry.backup import snapshot
from registry.backup.check import backup_problems
from registry.backup.make import make
from registry.backup.place import Place
from registry.backup.restore import restore
from tests.bench.results import Report
from tests.registry.large import large_registry


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that it took, and what it returned."""
    began = time.monotonic()
    result = work()
    return time.monotonic() - began, result


def measure(folder: Path, artifacts: int) -> list[tuple[str, float, str]]:
    """What was done, the seconds that it took, and what that was about."""
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
    sizes, title = parser.parse_args(arguments).sizes, "Backup of a SQLite registry with tiny files"
    with Report("backup", "sqlalchemy") as report:
        for artifacts in sizes:
            with tempfile.TemporaryDirectory() as folder:
                for what, seconds, about in measure(Path(folder), artifacts):
                    report.row(title, {"what": what, "artifacts": artifacts, "seconds": seconds, "of": about})
        report.plot(title, "artifacts", "seconds", "what")
    return 0


if __name__ == "__main__":
    sys.exit(main())
