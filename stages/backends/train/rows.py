"""Prepared rows as token ids and labels, and the order in which training sees them."""

from __future__ import annotations

import errno
import os
import random
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from stages.backends.chat import Message, Tokenizer, encode_with_mask
from stages.errors import InsufficientResources, InvalidInput
from stages.formats.dataset_rows import read_in_parts

IGNORED = -100
"""Label of a token that carries no loss."""
WINDOW = 32
"""Batches that are sorted by length together: enough to pad little, few enough to stay shuffled."""
Encoded = tuple[Sequence[int], Sequence[int]]
"""Token ids of a row, and a mask of the same length that is 0 where the assistant does not speak."""


class Rows:
    """Token ids and labels of rows on disk, read one by one; memory holds the rows' lengths and places.

    `lengths`, `tokens`: int32 of shape (rows,). The file behind `descriptor` has an int32 for each token: its
    id, or where it carries no loss the bitwise complement of its id, which is negative.
    """

    def __init__(self, descriptor: int, lengths: np.ndarray) -> None:
        self.lengths = self.tokens = lengths
        self._descriptor, self._ends = descriptor, np.cumsum(lengths, dtype=np.int64)
        weakref.finalize(self, os.close, descriptor)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """`input_ids` and `labels` of a row: int64 of shape (tokens,). A label is the id, or `IGNORED`."""
        size, end = 4 * int(self.lengths[row]), 4 * int(self._ends[row])
        kept = np.frombuffer(os.pread(self._descriptor, size, end - size), np.int32).astype(np.int64)
        taught = kept >= 0
        return {"input_ids": np.where(taught, kept, ~kept), "labels": np.where(taught, kept, IGNORED)}


def keep_rows(encoded: Iterable[Encoded], folder: Path) -> Rows:
    """Write rows into a file in `folder` that has no name: it is gone with `Rows`, or a killed process.

    Raises `InsufficientResources` where the disk is full.
    """
    lengths = array("i")
    with _room(folder), TemporaryFile(dir=folder, buffering=1 << 20) as file:
        for ids, mask in encoded:
            tokens = np.array(ids, dtype=np.int32)
            file.write(np.where(np.array(mask, dtype=bool), tokens, ~tokens).tobytes())
            lengths.append(len(tokens))
        file.flush()
        return Rows(os.dup(file.fileno()), np.array(lengths, dtype=np.int32))


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InsufficientResources(
            f"the disk of {folder} is full: a training keeps its rows there as token ids, 4 bytes a token, "
            "until it ends; make room or set TUNELINE_HOME to a larger disk"
        ) from error


def encode_split(file: Path, tokenizer: Tokenizer, max_length: int, folder: Path) -> Rows:
    """Read one split of a prepared dataset into a file in `folder`. A split that is not there is empty.

    Raises `InvalidInput` for a row that is longer than `max_length` tokens or trains on none, and
    `InsufficientResources` where the disk is full.
    """
    rows = enumerate(read_in_parts(file, ["messages"]))
    encoded = (encode_chat(row["messages"], tokenizer, max_length, f"{file.name} row {k}") for k, row in rows)
    return keep_rows(encoded, folder)


def encode_chat(messages: Sequence[Message], tokenizer: Tokenizer, max_length: int, place: str) -> Encoded:
    """One chat. Raises `InvalidInput` as `encode_split` does, in words that begin with its `place`."""
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
    return ids, mask


def training_order(lengths: Sequence[int] | np.ndarray, rows: int, batch: int, seed: int) -> np.ndarray:
    """Indices of the rows that training sees, in order: int64 of shape (`rows`,); in pieces of `batch` they
    are its batches.

    Every row comes once before any comes again. Rows of similar length share a batch, so little is
    padded; the batches are shuffled. The longest comes first, so that a lack of memory shows at once.
    Depends on the arguments alone, so a resumed run sees the same order.
    """
    draw, lengths = random.Random(seed), np.asarray(lengths)
    order = np.fromiter(islice(_endless(len(lengths), draw), rows), dtype=np.int64, count=rows)
    for start in range(0, rows, WINDOW * batch):
        window = order[start : start + WINDOW * batch]
        window = window[np.argsort(lengths[window], kind="stable")]
        pieces = [window[i : i + batch] for i in range(0, len(window), batch)]
        draw.shuffle(pieces)
        pieces.sort(key=lambda piece: len(piece) < batch)  # the one that is short comes last
        order[start : start + len(window)] = np.concatenate(pieces)
    whole = order[: rows - rows % batch].reshape(-1, batch)
    if len(whole):
        longest = int(lengths[whole].max(axis=1).argmax())
        whole[[0, longest]] = whole[[longest, 0]]
    return order


def _endless(count: int, draw: random.Random) -> Iterator[int]:
    while True:
        permutation = array("q", range(count))
        draw.shuffle(permutation)
        yield from permutation
