"""What the data's files and first rows say, before anything is tokenized."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

from stages.data.collect import Tally
from stages.errors import StageError
from stages.prepare import PrepareConfig, first_records

LARGEST = 2_000_000_000
"""Bytes of data files that are opened: opening takes their digest, at about 1 GB a second."""


def problems(config: PrepareConfig) -> Iterator[str]:
    """Why no row can be had from the source, as far as its files and its first rows tell.

    A dataset of the hub is asked for by the run itself, in its second step.
    """
    if config.source.startswith("hub:") or _size(config.source) > LARGEST:
        return
    try:
        records = first_records(config, Tally())
    except StageError as error:
        yield f"prepare.source: {error}"
        return
    if records and all(record.row is None for record in records):
        first = records[0]
        yield (
            f"prepare.source: none of the first {len(records)} rows can be read; {first.file} line "
            f"{first.line}: {first.error}"
        )


def _size(source: str) -> int:
    """Bytes of what the source names; 0 where there is nothing, which opening it explains."""
    scheme, _, place = source.partition(":")
    if scheme == "path":
        path = Path(place).expanduser()
        files = [path] if path.is_file() else path.rglob("*") if path.is_dir() else []
    else:
        name, _, pattern = place.partition("/")
        try:
            listed = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            listed = []
        files = [Path(str(file.locate())) for file in listed if pattern and file.match(pattern)]
    return sum(file.stat().st_size for file in files if file.is_file())
