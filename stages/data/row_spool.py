"""Good rows put aside on disk while the rest is read; memory holds some 140 bytes a row."""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from registry.artifacts import digest
from stages.data.dedupe import NearDuplicates, normalized
from stages.data.formats import Messages
from stages.data.source_row import Kept, RowError
from stages.data.split import bucket
from stages.formats.dataset_rows import REFERENCES, SCHEMA, SLICES, WIDE, paired
from stages.formats.messages import Message, beside_content, is_plain, said

_BATCH = 1000  # rows that are held in memory before they are written
_LINE_END = re.compile(r"\r\n?|\n")
_TIE = 0xFFFF  # the bits of a place that decide between rows of the same words
MOST_VALUES = 20
EXAMPLES = 3
"""Duplicates whose places are told."""
BESIDE = "beside"
"""Column of the spool: JSON of what each message holds beside role and content; null for a plain row."""
_SPOOLED = pa.schema(
    [
        *SCHEMA,
        (BESIDE, pa.string()),
        ("rejected", pa.string()),
        ("rejected_tokens", pa.int32()),
        (REFERENCES, pa.list_(pa.string())),
        (SLICES, pa.string()),
    ]
)
"""`rejected`: JSON of the answer that is not preferred; null where a row has one answer."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A row that can be trained on, with its length and its assistant's share of it in tokens.

    Of preferences also the answer that is not preferred to the last message, and the length with that one.
    `group`: of a piece of a document what all its pieces share, in place of the hash of a prompt.
    """

    messages: Messages
    tokens: int
    trainable: int
    rejected: Message | None = None
    rejected_tokens: int = 0
    desirable: bool = True
    group: str | None = None

    @property
    def all_messages(self) -> list[Message]:
        """Those of the chat, and the other answer."""
        return [*self.messages, *([self.rejected] if self.rejected is not None else [])]


class RowSpool:
    """Distinct rows in their order, in an Arrow file of `SCHEMA` and `BESIDE` at `path`; a context manager.

    `schema` is what the rows are to be published with: `SCHEMA` where all messages are plain, else `WIDE`; of
    preferences `paired` of either.

    `exact_duplicates` counts the rows that were there already, character by character but for line ends.
    `with_turns`: keep what is asked in each turn, for `asks_again`.
    """

    def __init__(
        self, scratch: Path, seed: int, near_duplicates: float | None, with_turns: bool = False
    ) -> None:
        self.path = scratch / "rows"
        self.exact_duplicates = 0
        self._plain, self._pairs = True, False
        self._referenced, self._slices = 0, dict[str, Counter[str]]()
        self._seed = seed
        self._near = NearDuplicates(near_duplicates, scratch) if near_duplicates else None
        self._seen: set[bytes] = set()
        self._lengths = array("I")
        self._prompts = array("Q")
        self._places = array("Q")
        self._lines = array("Q")
        self._undesirable = array("B")
        self._turns = array("Q") if with_turns else None
        self._turn_ends = array("Q", [0])
        self._files: dict[str, int] = {}
        self._file_of_row = array("I")
        self._repeated: list[str] = []
        self._waiting: list[dict[str, Any]] = []
        self._writer = pa.ipc.new_file(self.path, _SPOOLED)

    def __enter__(self) -> RowSpool:
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

    def add(self, row: Checked, file: str, line: int, kept: Kept | None = None) -> None:
        """Keep the row, which stands at `line` of `file`, unless the same one is there.

        Raises `RowError` where that one has the other label."""
        exact = _exact_hash(row.all_messages)
        halves = bytes.fromhex(exact)[:16], bytes.fromhex(exact)[16:]
        key, opposite = halves if row.desirable else halves[::-1]
        if opposite in self._seen:
            raise RowError("contradicting_labels", "an earlier row calls the same answer the opposite")
        if key in self._seen:
            self.exact_duplicates += 1
            if len(self._repeated) < EXAMPLES:
                self._repeated.append(f"{file} line {line}")
            return
        self._seen.add(key)
        prompt_hash = row.group or content_hash(row.messages[:-1])
        self._lengths.append(row.tokens)
        self._prompts.append(bucket(self._seed, prompt_hash))
        # Rows that differ in case or white space would otherwise stand in the order in which they came.
        tie = bucket(self._seed, exact) & _TIE
        self._places.append(bucket(self._seed, content_hash(row.messages)) & ~_TIE | tie)
        self._lines.append(line)
        self._undesirable.append(not row.desirable)
        self._file_of_row.append(self._files.setdefault(file, len(self._files)))
        if self._turns is not None:
            self._turns.extend(_asked_by_turn(row.messages))
            self._turn_ends.append(len(self._turns))
        if self._near:
            asked = [said(message) for message in row.messages if message["role"] != "assistant"]
            answered = [said(message) for message in row.all_messages if message["role"] == "assistant"]
            self._near.add(asked, answered, apart=not row.desirable)
        self._plain &= is_plain(row.all_messages)
        self._waiting.append({"prompt_hash": prompt_hash, **_spooled(row), **self._counted(kept or Kept())})
        self._pairs |= row.rejected is not None
        if len(self._waiting) == _BATCH:
            self._flush()

    @property
    def schema(self) -> pa.Schema:
        """Of the rows as they are to be published."""
        schema = SCHEMA if self._plain else WIDE
        if self._pairs:
            schema = paired(schema)
        for name in self.kept:
            schema = schema.append(_SPOOLED.field(name))
        return schema

    @property
    def kept(self) -> dict[str, Any]:
        """What rows have beside their messages, in the columns' names: how many have `REFERENCES`, and of
        `SLICES` how many have each value, of each column its `MOST_VALUES` most frequent."""
        slices = {name: dict(values.most_common(MOST_VALUES)) for name, values in self._slices.items()}
        given = {REFERENCES: self._referenced, SLICES: slices}
        return {name: found for name, found in given.items() if found}

    def _counted(self, kept: Kept) -> dict[str, Any]:
        self._referenced += bool(kept.references)
        for name, value in kept.slices.items():
            self._slices.setdefault(name, Counter())[value] += 1
        slices = json.dumps(kept.slices, ensure_ascii=False, sort_keys=True) if kept.slices else None
        return {REFERENCES: kept.references or None, SLICES: slices}

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

    @property
    def lines(self) -> np.ndarray:
        """Where each row stands in its file: uint64 of shape (rows,)."""
        return np.array(self._lines, dtype=np.uint64)

    @property
    def undesirable(self) -> np.ndarray:
        """Whether each row's answer was called bad: bool of shape (rows,)."""
        return np.array(self._undesirable, dtype=bool)

    def like_first(self, first: int, counted: int) -> np.ndarray:
        """`NearDuplicates.like_first`; nothing is alike where near duplicates are kept."""
        return self._near.like_first(first, counted) if self._near else np.zeros(len(self), dtype=bool)

    def asks_again(self, which: np.ndarray) -> np.ndarray:
        """bool of shape (rows,): True where in some turn the same is asked as at the end of a row of `which`.

        `which`: bool of shape (rows,); False for these rows themselves. What is asked is all that the user
        said until then: whatever the system message and the answers on the way are.
        """
        assert self._turns is not None
        turns, ends = np.array(self._turns, dtype=np.uint64), np.array(self._turn_ends, dtype=np.int64)
        last = turns[ends[1:] - 1]
        rows = np.repeat(np.arange(len(self)), np.diff(ends))
        again = np.zeros(len(self), dtype=bool)
        again[rows[np.isin(turns, last[which])]] = True
        return again & ~which

    def near_duplicates(self) -> np.ndarray:
        """bool of shape (rows,): True where an earlier row is nearly the same. After the context is left."""
        return self._near.duplicates() if self._near else np.zeros(len(self), dtype=bool)

    def duplicate_places(self, near: np.ndarray) -> list[str]:
        """Where a few of the duplicates stand: rows that were there already, and those marked in `near`."""
        names = list(self._files)
        rows = [int(row) for row in np.flatnonzero(near)[:EXAMPLES]]
        places = [f"{names[self._file_of_row[row]]} line {self._lines[row]}" for row in rows]
        return (self._repeated + places)[:EXAMPLES]

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._waiting, _SPOOLED))
            self._waiting = []


def _spooled(row: Checked) -> dict[str, Any]:
    """The row in the spool's columns, but for the hash of its prompt."""
    beside, rejected = None, None
    if not is_plain(row.messages):
        beside = json.dumps([beside_content(message) for message in row.messages], ensure_ascii=False)
    if row.rejected is not None:
        rejected = json.dumps(row.rejected, ensure_ascii=False)
    counts = {"tokens": row.tokens, "trainable": row.trainable, "rejected_tokens": row.rejected_tokens}
    return {"messages": row.messages, BESIDE: beside, "rejected": rejected, **counts}


def as_spooled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the spool's columns as they were added."""
    for row in rows:
        if row["rejected"] is not None:
            row["rejected"] = json.loads(row["rejected"])
        beside = row.pop(BESIDE)
        if beside is not None:
            row["messages"] = [{**m, **b} for m, b in zip(row["messages"], json.loads(beside), strict=True)]
    return rows


def content_hash(messages: Sequence[Message]) -> str:
    """sha256 (hex) of the roles, the normalized contents, and what stands beside them but ids and weights."""
    return digest([[m["role"], normalized(m["content"]), *_meant(m)] for m in messages])


def _exact_hash(messages: Sequence[Message]) -> str:
    """sha256 (hex) of all that the messages hold as it is, but for the kind of line end."""
    return digest([[m["role"], _LINE_END.sub("\n", m["content"]), *_beside(m)] for m in messages])


def _meant(message: Message) -> list[dict[str, Any]]:
    """What a message says beside its content: the same for calls with other ids."""
    beside = {k: v for k, v in beside_content(message).items() if k not in ("weight", "tool_call_id")}
    if "tool_calls" in beside:
        beside["tool_calls"] = [call["function"] for call in beside["tool_calls"]]
    return [beside] if beside else []


def _beside(message: Message) -> list[dict[str, Any]]:
    return [beside] if (beside := beside_content(message)) else []


def _asked_by_turn(messages: Sequence[Message]) -> Iterator[int]:
    """For each answer a number in [0, 2⁶⁴) that depends on all that the user said before it, normalized."""
    asked = hashlib.sha256()
    for message in messages:
        if message["role"] in ("user", "tool"):
            asked.update(digest(normalized(message["content"])).encode())
        elif message["role"] == "assistant":
            yield int.from_bytes(asked.digest()[:8])
