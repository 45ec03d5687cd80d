"""Prepared preferences as token ids and labels: each prompt with both of its answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from stages.backends.chat import Tokenizer
from stages.backends.train.rows import Encoded, Rows, encode_chat, keep_rows
from stages.errors import InvalidInput
from stages.formats.dataset_rows import read_in_parts
from stages.formats.messages import last_answer_only


class Pairs:
    """Two answers to one prompt each, of which only the answers have labels.

    `lengths`: tokens of the longer chat of each pair, to which the other one is padded; `tokens`: of both.
    `chats`: rows 2k and 2k + 1 are the chosen and the rejected one of pair k.
    """

    def __init__(self, chats: Rows) -> None:
        self._chats, both = chats, chats.lengths.reshape(-1, 2)
        self.lengths, self.tokens = both.max(axis=1), both.sum(axis=1)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, place: int) -> dict[str, Any]:
        """`input_ids` and `labels`, each of the chosen and of the rejected chat, and the pair's `place`."""
        chosen, rejected = self._chats[2 * place], self._chats[2 * place + 1]
        return {**{name: (chosen[name], rejected[name]) for name in chosen}, "place": place}


def encode_pairs(file: Path, tokenizer: Tokenizer, max_length: int, folder: Path) -> Pairs:
    """Read one split of prepared preferences, as `encode_split` does.

    Raises `InvalidInput` for a dataset without pairs too.
    """
    if file.is_file() and "rejected" not in pq.read_schema(file).names:
        raise InvalidInput(
            f"{file.name} has one answer to each prompt, and train.method compares two; prepare pairs of "
            "them with prepare.format: preferences, or set train.method: sft"
        )
    return Pairs(keep_rows(_chats(file, tokenizer, max_length), folder))


def _chats(file: Path, tokenizer: Tokenizer, max_length: int) -> Iterator[Encoded]:
    for number, row in enumerate(read_in_parts(file, ["messages", "rejected"])):
        chat, place = last_answer_only(row["messages"]), f"{file.name} row {number}"
        yield encode_chat(chat, tokenizer, max_length, f"{place} (chosen)")
        yield encode_chat([*chat[:-1], row["rejected"]], tokenizer, max_length, f"{place} (rejected)")
