"""The columns of a prepared dataset's Parquet files."""

from __future__ import annotations

import pyarrow as pa

REFERENCES = "references"
"""A row's right answers beside its own: a list of texts, null where there are none. The column is there where
some row has one, as that of `SLICES` is."""
SLICES = "slices"
"""JSON of column of the data → value, of what a row is sliced by."""
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
