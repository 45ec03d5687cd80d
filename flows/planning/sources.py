"""How large a recipe's data are."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from stages.config.prepare import PrepareConfig


def all_data_bytes(config: PrepareConfig, feed: Path | None = None) -> int | None:
    """Size of all of a recipe's data, as `data_bytes` counts it; None where that of one cannot be known."""
    sizes = [data_bytes(alone.source, feed) for alone in config.sources]
    return None if None in sizes else sum(filter(None, sizes))


def data_bytes(source: str, feed: Path | None = None) -> int | None:
    """Size of the data files, uncompressed (gzip counted five-fold); None where it cannot be known yet.

    `feed`: a file with the rows of the feed that the source names.
    """
    scheme, _, place = source.partition(":")
    if feed is not None:
        files = [feed]
    elif scheme == "path":
        path = Path(place).expanduser()
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    elif scheme == "package":
        distribution, _, pattern = place.partition("/")
        try:
            listed = importlib.metadata.files(distribution) or []
        except importlib.metadata.PackageNotFoundError:
            return None
        files = [Path(str(file.locate())) for file in listed if pattern and file.match(pattern)]
    else:
        return None
    return sum(file.stat().st_size * (5 if file.suffix == ".gz" else 1) for file in files) or None
