"""On which database and store a trial runs: `--database postgresql`, `--store s3`, on servers of its own."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.registry import servers
from tests.registry.backends import Backend, Backends


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--store", choices=("local", "s3"), default="local")


def report(given: argparse.Namespace, begun: float, **parts: Any) -> None:
    """Print the one JSON document of a trial that began at `begun` (of `time.monotonic`)."""
    seconds = round(time.monotonic() - begun, 1)
    print(
        json.dumps({"database": given.database, "store": given.store, **parts, "seconds": seconds}, indent=2)
    )


@contextmanager
def chosen(given: argparse.Namespace) -> Iterator[Backends]:
    """New places of the chosen kind; servers and files are gone after the block."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        server = stack.enter_context(servers.postgresql()) if given.database == "postgresql" else None
        bucket = None
        if given.store == "s3":
            (folder / "s3").mkdir()
            bucket = stack.enter_context(servers.object_store(folder / "s3"))
            os.environ.update(bucket.environment())
        count = 0

        def make() -> Backend:
            nonlocal count
            count += 1
            return Backend(
                folder / str(count), server.fresh() if server else None, bucket.fresh() if bucket else None
            )

        yield make
