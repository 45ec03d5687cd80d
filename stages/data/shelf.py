"""Good rows put aside on disk while the rest is read; memory holds some 100 bytes a row."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from registry.artifacts import digest
from stages.data.dedupe import NearDuplicates, normalized
from stages.data.formats import Messages
from stages.data.split import bucket

_BATCH = 1000  # rows that are held in memory before they are written
SCHEMA = pa.schema(
    [
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("prompt_hash", pa.string()),
        ("tokens", pa.int32()),
        ("trainable", pa.int32()),
    ]
)


@dataclass(frozen=True, slots=True)
class Checked:
    """A row that can be trained on, with its length and its assistant's share of it in tokens."""

    messages: Messages
    tokens: int
    trainable: int


class Shelf:
    """Distinct rows in their order, in an Arrow file of `SCHEMA` at `path`; a context manager.

    `exact_duplicates` counts the rows that were there already, by their normalized messages.
    """

    def __init__(self, scratch: Path, seed: int, near_duplicates: float | None) -> None:
        self.path = scratch / "rows"
        self.exact_duplicates = 0
        self._seed = seed
        self._near = NearDuplicates(near_duplicates, scratch) if near_duplicates else None
        self._seen: set[bytes] = set()
        self._lengths = array("I")
        self._prompts = array("Q")
        self._places = array("Q")
        self._waiting: list[dict[str, Any]] = []
        self._writer = pa.ipc.new_file(self.path, SCHEMA)

    def __enter__(self) -> Shelf:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()
        self._writer.close()
        if self._near:
            self._near.close()

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, row: Checked) -> None:
        """Keep the row, unless the same one is there."""
        content = content_hash(row.messages)
        key = bytes.fromhex(content)[:16]
        if key in self._seen:
            self.exact_duplicates += 1
            return
        self._seen.add(key)
        prompt_hash = content_hash(row.messages[:-1])
        self._lengths.append(row.tokens)
        self._prompts.append(bucket(self._seed, prompt_hash))
        self._places.append(bucket(self._seed, content))
        if self._near:
            self._near.add([m["content"] for m in row.messages if m["role"] != "system"])
        self._waiting.append({
            "messages": row.messages, "prompt_hash": prompt_hash,
            "tokens": row.tokens, "trainable": row.trainable,
        })  # fmt: skip
        if len(self._waiting) == _BATCH:
            self._flush()

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row: uint32 of shape (rows,)."""
        return np.array(self._lengths, dtype=np.uint32)

    @property
    def prompts(self) -> np.ndarray:
        """`bucket` of each row's prompt: uint64 of shape (rows,)."""
        return np.array(self._prompts, dtype=np.uint64)

    @property
    def places(self) -> np.ndarray:
        """By which to shuffle: uint64 of shape (rows,), from the seed and the row's own content."""
        return np.array(self._places, dtype=np.uint64)

    def near_duplicates(self) -> np.ndarray:
        """bool of shape (rows,): True where an earlier row is nearly the same. After the context is left."""
        return self._near.duplicates() if self._near else np.zeros(len(self), dtype=bool)

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._waiting, SCHEMA))
            self._waiting = []


def content_hash(messages: Sequence[dict[str, str]]) -> str:
    """sha256 (hex) of the roles and the normalized contents."""
    return digest([[m["role"], normalized(m["content"])] for m in messages])
