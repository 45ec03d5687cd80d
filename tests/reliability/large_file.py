"""What a large file costs in memory: `python -m tests.reliability.large_file --megabytes 300 --store s3`.

One process publishes it, another, with a home of its own, views and verifies it. Reported is by how much the
peak memory of each (VmHWM) exceeds that of the same work with a small file; it must not grow with the file.
Prints one JSON document; exits with 1 beyond --limit.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from registry.artifacts import StageResult, memo_key
from registry.catalog import ResourceUse
from tests.registry.backends import Backend
from tests.reliability import choice
from tests.reliability.publish import answer

MEGABYTE = 10**6


def publish(backend: Backend, megabytes: int) -> tuple[float, str]:
    """Publish a file of that size; returns the peak memory in MB, and the id."""
    with (
        backend.open() as registry,
        registry.draft(memo_key("prepare", 1, {"n": megabytes}, {}, {}), "prepare") as draft,
    ):
        with (draft.path / "weights.bin").open("wb") as stream:
            for number in range(megabytes):
                stream.write(number.to_bytes(8) * (MEGABYTE // 8))
        made = draft.commit(
            StageResult(kind="dataset", stage="prepare", stage_version=1),
            ResourceUse(datetime(2026, 1, 1, tzinfo=UTC), 0),
        )
    return peak(), made.id


def read(backend: Backend, artifact_id: str) -> tuple[float, list[str]]:
    """View and verify; returns the peak memory in MB, and what verify found."""
    with backend.open() as registry:
        registry.view(artifact_id)
        problems = [str(one) for one in registry.verify(artifact_id)]
        return peak(), problems


def peak() -> float:
    """This process's peak resident memory in MB."""
    status = Path("/proc/self/status").read_text()
    (kilobytes,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kilobytes) * 1024 / MEGABYTE


def run(new_backend: Any, megabytes: int) -> dict[str, Any]:
    """Peaks over those of a file of 1 MB, in MB, and seconds, of each of the two machines."""
    wrong: list[str] = []
    figures: dict[int, dict[str, float]] = {}
    for size in (1, megabytes):
        here = new_backend()
        database = here.database_url or f"sqlite:///{here.home}/registry.db"
        store = here.store_url or (here.home / "blobs").as_uri()
        there = Backend(here.home.with_name(f"{here.home.name}-other"), database, store)
        begun = time.monotonic()
        published, made = answer(partial(publish, here, size))
        middle = time.monotonic()
        seen, problems = answer(partial(read, there, made))
        wrong += problems
        ended = time.monotonic()
        figures[size] = {
            "published": published,
            "seen": seen,
            "publishing": middle - begun,
            "seeing": ended - middle,
        }
    small, large = figures[1], figures[megabytes]
    return {
        "megabytes": megabytes,
        "publishing: MB of memory more": round(large["published"] - small["published"], 1),
        "viewing and verifying: MB of memory more": round(large["seen"] - small["seen"], 1),
        "publishing: seconds": round(large["publishing"], 1),
        "viewing and verifying: seconds": round(large["seeing"], 1),
        "wrong": wrong,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    choice.add_arguments(parser)
    parser.add_argument("--megabytes", type=int, default=300, help="size of the large file")
    parser.add_argument("--limit", type=float, default=100.0, help="MB of memory that it may cost")
    given = parser.parse_args(arguments)
    begun = time.monotonic()
    with choice.chosen(given) as new_backend:
        found = run(new_backend, given.megabytes)
    choice.report(given, begun, **found)
    return 1 if found["wrong"] or max(v for k, v in found.items() if "memory" in k) > given.limit else 0


if __name__ == "__main__":
    sys.exit(main())
