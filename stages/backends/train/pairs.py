"""Prepared preferences as token ids and labels: each prompt with both of its answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from stages.backends.chat import Tokenizer
from stages.backends.train.rows import Rows, append_encoded
from stages.errors import InvalidInput
from stages.formats.messages import last_answer_only


@dataclass(frozen=True)
class Pairs:
    """Rows k of `chosen` and of `rejected` are two answers to one prompt; only the answers have labels."""

    chosen: Rows = field(default_factory=lambda: Rows([], []))
    rejected: Rows = field(default_factory=lambda: Rows([], []))

    @property
    def lengths(self) -> list[int]:
        """Tokens of the longer chat of each pair, to which the other one is padded."""
        return [max(both) for both in zip(self.chosen.lengths, self.rejected.lengths, strict=True)]

    @property
    def tokens(self) -> list[int]:
        """Tokens of both chats of each pair."""
        return [sum(both) for both in zip(self.chosen.lengths, self.rejected.lengths, strict=True)]

    def __len__(self) -> int:
        return len(self.chosen)


def encode_pairs(file: Path, tokenizer: Tokenizer, max_length: int) -> Pairs:
    """Read one split of prepared preferences. A file that is not there is an empty split.

    Raises `InvalidInput` for a dataset without pairs, and for a row as `encode_split` does.
    """
    pairs = Pairs()
    if not file.is_file():
        return pairs
    if "rejected" not in pq.read_schema(file).names:
        raise InvalidInput(
            f"{file.name} has one answer to each prompt, and train.method compares two; prepare pairs of "
            "them with prepare.format: preferences, or set train.method: sft"
        )
    rows = pq.read_table(file, columns=["messages", "rejected"]).to_pylist()
    for number, row in enumerate(rows):
        chat, place = last_answer_only(row["messages"]), f"{file.name} row {number}"
        append_encoded(pairs.chosen, chat, tokenizer, max_length, f"{place} (chosen)")
        other = [*chat[:-1], row["rejected"]]
        append_encoded(pairs.rejected, other, tokenizer, max_length, f"{place} (rejected)")
    return pairs
