"""The columns of a prepared dataset's Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

REFERENCES = "references"
"""A row's right answers beside its own: a list of texts, null where there are none. The column is there where
some row has one, as that of `SLICES` is."""
SLICES = "slices"
"""JSON of column of the data → value, of what a row is sliced by."""
_PART = 100
"""Rows that are in memory at once while a split is read."""
SCHEMA = pa.schema(
    [
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("prompt_hash", pa.string()),
        ("tokens", pa.int32()),
        ("trainable", pa.int32()),
    ]
)
_CALL = pa.struct(
    [
        ("id", pa.string()),
        ("type", pa.string()),
        ("function", pa.struct([("name", pa.string()), ("arguments", pa.string())])),
    ]
)
WIDE = SCHEMA.set(
    0,
    pa.field(
        "messages",
        pa.list_(
            pa.struct(
                [
                    ("role", pa.string()),
                    ("content", pa.string()),
                    ("reasoning_content", pa.string()),
                    ("tool_calls", pa.list_(_CALL)),
                    ("tool_call_id", pa.string()),
                    ("name", pa.string()),
                    ("weight", pa.int8()),
                    ("tools", pa.string()),
                ]
            )
        ),
    ),
)
"""Of a dataset in which some message holds more than role and content, as `stages.formats.messages` says."""


def paired(schema: pa.Schema) -> pa.Schema:
    """Of a dataset of pairs: each row also has the answer that its last message is preferred to."""
    answer = pa.field("rejected", schema.field("messages").type.value_type)
    return schema.append(answer).append(pa.field("rejected_tokens", pa.int32()))


def read_in_parts(file: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a split in order, with those of `columns` that it has; none where it is not there."""
    if file.is_file():
        with pyarrow.parquet.ParquetFile(file) as opened:
            there = [name for name in columns if name in opened.schema_arrow.names]
            for batch in opened.iter_batches(_PART, columns=there):
                yield from batch.to_pylist()
