"""Rows of a prepared dataset: those that hold a text, and as the model sees them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from flows.run.child import child_environment
from registry.errors import InvalidArtifact
from stages.formats.splits import ALL_SPLITS

SPLITS = ALL_SPLITS
SECONDS = 120.0
"""For rendering some rows; most of it is the tokenizer's library being loaded."""


def matching(path: Path, text: str, start: int, most: int) -> tuple[list[dict[str, Any]], int]:
    """Of the rows in which some message holds the text, in any case of its letters, `most` from `start` on;
    and how many there are.

    Looked for in contents, reasoning, calls and tools. Of preferences also the column `rejected`.
    """
    found: list[dict[str, Any]] = []
    total = 0
    with pyarrow.parquet.ParquetFile(path) as opened:
        there = opened.schema_arrow.names
        columns = [name for name in ("messages", "tokens", "trainable", "rejected") if name in there]
        for group in range(opened.num_row_groups):
            rows, wanted = opened.metadata.row_group(group).num_rows, start + most - total
            if text or (start < total + rows and wanted > 0):
                table = _holding(opened.read_row_group(group, columns), text)
                rows, first = table.num_rows, min(max(0, start - total), table.num_rows)
                found += table.slice(first, max(0, wanted - first)).to_pylist()
            total += rows
    return found, total


def _holding(table: pyarrow.Table, text: str) -> pyarrow.Table:
    if not text:
        return table
    rows = [
        row_of_text.filter(pyarrow.compute.match_substring(texts, text, ignore_case=True))
        for texts, row_of_text in _texts(table.column("messages").combine_chunks())
    ]
    found = pyarrow.concat_arrays([part.cast(pyarrow.int64()) for part in rows]).unique()
    return table.take(found.take(pyarrow.compute.sort_indices(found)))


def _texts(lists: Any) -> Iterator[tuple[Any, Any]]:
    """Each text of the messages but their roles, with the row that each stands in: arrays of one length."""
    messages, rows = lists.flatten(), pyarrow.compute.list_parent_indices(lists)
    for name in [field.name for field in messages.type if field.type == pyarrow.string()]:
        if name != "role":
            yield messages.field(name), rows
    if messages.type.get_field_index("tool_calls") >= 0:
        calls = messages.field("tool_calls")
        of_call = rows.take(pyarrow.compute.list_parent_indices(calls))
        function = calls.flatten().field("function")
        yield function.field("name"), of_call
        yield function.field("arguments"), of_call


def chats_of(row: Mapping[str, Any]) -> list[Any]:
    """The chat of a row; of preferences also the one with the other answer."""
    chat = row["messages"]
    return [chat] if row.get("rejected") is None else [chat, [*chat[:-1], row["rejected"]]]


def rendered(tokenizer: Path, chats: list[Any]) -> list[Any]:
    """Each chat through the chat template in the directory `tokenizer`, by the code that trains.

    A list of pieces [text, whether it is trained]; or a text, why the chat cannot be rendered.
    Raises `InvalidArtifact` where the tokenizer cannot be used.
    """
    job = json.dumps({"tokenizer": str(tokenizer), "chats": chats})
    command = [sys.executable, "-m", "stages.backends.rendering"]
    try:
        done = subprocess.run(
            command, input=job, capture_output=True, text=True, timeout=SECONDS, env=child_environment()
        )
        answer: list[Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise InvalidArtifact(f"the tokenizer did not answer within {SECONDS:.0f} s") from None
    except ValueError:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise InvalidArtifact(f"the rows cannot be rendered: {last}") from None
    return answer
