"""Prepared rows as token ids and labels, and the order in which training sees them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq

from stages.backends.chat import Message, Tokenizer, encode_with_mask
from stages.errors import InvalidInput

IGNORED = -100
"""Label of a token that carries no loss."""
_BATCH = 1000
"""Rows whose texts are in memory at once."""
WINDOW = 32
"""Batches that are sorted by length together: enough to pad little, few enough to stay shuffled."""


@dataclass(frozen=True)
class Rows:
    """Token ids and labels, row by row; a label is `IGNORED` where the assistant does not speak."""

    input_ids: list[list[int]]
    labels: list[list[int]]

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.input_ids]

    def __len__(self) -> int:
        return len(self.input_ids)


def encode_split(file: Path, tokenizer: Tokenizer, max_length: int) -> Rows:
    """Read one split of a prepared dataset. A file that is not there is an empty split.

    Raises `InvalidInput` for a row that is longer than `max_length` tokens or trains on none.
    """
    rows = Rows([], [])
    for number, messages in enumerate(chats_of(file)):
        append_encoded(rows, messages, tokenizer, max_length, f"{file.name} row {number}")
    return rows


def chats_of(file: Path) -> Iterator[Sequence[Message]]:
    """Each row's messages, some rows in memory at a time. A file that is not there has none."""
    if file.is_file():
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(_BATCH, columns=["messages"]):
                yield from batch.column("messages").to_pylist()


def append_encoded(
    rows: Rows, messages: Sequence[Message], tokenizer: Tokenizer, max_length: int, place: str
) -> None:
    """Add a chat to `rows`. Raises as `encode_split` does, in words that begin with its `place`."""
    ids, mask = encode_with_mask(tokenizer, messages)
    if len(ids) > max_length:
        raise InvalidInput(
            f"{place} has {len(ids)} tokens, more than train.max_length {max_length}; raise it, or prepare "
            "the dataset with prepare.max_length as low"
        )
    if not any(mask[1:]):
        raise InvalidInput(
            f"{place} has no token of the assistant to learn from; prepare the dataset again with this "
            "base's chat template"
        )
    rows.input_ids.append(ids)
    rows.labels.append([token if on else IGNORED for token, on in zip(ids, mask, strict=True)])


def training_order(lengths: Sequence[int], rows: int, batch: int, seed: int) -> list[int]:
    """Indices of the `rows` rows that training sees, in order; cut in pieces of `batch` they are its batches.

    Every row comes once before any comes again. Rows of similar length share a batch, so little is
    padded; the batches are shuffled. The longest comes first, so that a lack of memory shows at once.
    Depends on the arguments alone, so a resumed run sees the same order.
    """
    draw = random.Random(seed)
    order = list(islice(_endless(len(lengths), draw), rows))
    batches: list[list[int]] = []
    for start in range(0, rows, WINDOW * batch):
        window = sorted(order[start : start + WINDOW * batch], key=lambda row: lengths[row])
        pieces = [window[i : i + batch] for i in range(0, len(window), batch)]
        draw.shuffle(pieces)
        batches += pieces
    whole = [piece for piece in batches if len(piece) == batch]
    short = [row for piece in batches if len(piece) < batch for row in piece]
    if whole:
        longest = max(range(len(whole)), key=lambda k: max(lengths[row] for row in whole[k]))
        whole[0], whole[longest] = whole[longest], whole[0]
    return [row for piece in whole for row in piece] + short


def _endless(count: int, draw: random.Random) -> Iterator[int]:
    while True:
        permutation = list(range(count))
        draw.shuffle(permutation)
        yield from permutation
