"""Rows of Parquet files and Hugging Face datasets. Only columns that some format uses are read."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow
import pyarrow.parquet

from registry.artifacts import JsonObject
from stages.data.fields import READ, REFUSED_IN_ROW
from stages.data.source_row import SourceRow, SourceRows, named
from stages.data.text import opened
from stages.errors import InvalidInput

ROWS = 1024
"""Rows that are turned into Python values at once."""
_WANTED = READ | REFUSED_IN_ROW.keys()


def read_parquet(path: Path, name: str, columns: Collection[str] = ()) -> SourceRows:
    """Rows of a Parquet file, with these columns beside those that some format uses.

    Raises `InvalidInput` when it is not one, or names a wanted column twice.
    """
    with opened(path) as stream, tempfile.TemporaryFile() as unpacked:
        source: IO[bytes] = stream
        if path.suffix == ".gz":  # Parquet is read from its end, which a gzip stream cannot do
            shutil.copyfileobj(stream, unpacked)
            unpacked.seek(0)
            source = unpacked
        number = 0
        try:
            with pyarrow.parquet.ParquetFile(source) as table:
                wanted, unread = wanted_columns(table.schema_arrow.names, name, columns)
                for source_row in rows(table.iter_batches(ROWS, columns=wanted), name, unread):
                    number = source_row.line
                    yield source_row
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise InvalidInput(f"{name}: not a readable Parquet file after row {number}: {reason}") from error


def wanted_columns(
    names: Sequence[str], file: str, more: Collection[str] = ()
) -> tuple[list[str], tuple[str, ...]]:
    """The columns that some format uses, or that are among `more`, and the names of the others.

    Raises `InvalidInput` when a column that may be used is there twice.
    """
    used = _WANTED.union(more)
    wanted = [column for column in names if column in used]
    if twice := sorted({column for column in wanted if wanted.count(column) > 1}):
        raise InvalidInput(f"{file}: duplicate column {', '.join(twice)}; rename one of them")
    return wanted, tuple(dict.fromkeys(named(column) for column in names if column not in used))


def rows(batches: Iterable[Any], name: str, unread: tuple[str, ...]) -> SourceRows:
    """The rows of record batches or tables, numbered from 1."""
    number = 0
    for batch in batches:
        for row in _rows(batch):
            number += 1
            if isinstance(row, dict):
                yield SourceRow(name, number, row, None, unread)
            else:
                yield SourceRow(name, number, None, f"a value cannot be read: {row}", unread)


def _rows(batch: Any) -> list[JsonObject | str]:
    """Each row as Python values, or why it has none: a date after 9999, bytes that are no UTF-8."""
    try:
        rows: list[JsonObject | str] = batch.to_pylist()
        return rows
    except Exception as error:  # whatever Arrow and Python's own constructors raise for one value
        if len(batch) == 1:
            return [" ".join(f"{type(error).__name__}: {error}".split())]
    return [row for k in range(len(batch)) for row in _rows(batch.slice(k, 1))]
