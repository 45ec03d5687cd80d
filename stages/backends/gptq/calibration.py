"""Calibration rows for GPTQ: chats of the training split, as the model was trained on them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from registry.artifacts import digest
from stages.backends.chat import encode_with_mask, load_tokenizer
from stages.errors import InvalidInput

SHORTEST = 11
"""tokens; GPTQModel drops rows of up to ten without a word"""


@dataclass(frozen=True)
class Calibration:
    """Token ids of each row, the sha256 of their canonical JSON, and the rows left out as too short."""

    rows: list[list[int]]
    sha256: str
    too_short: int

    @property
    def tokens(self) -> int:
        return sum(len(row) for row in self.rows)

    @property
    def summary(self) -> dict[str, int | str]:
        """What a manifest says of it."""
        counts = {"rows": len(self.rows), "tokens": self.tokens, "too_short": self.too_short}
        return {**counts, "sha256": self.sha256}


def choose(model: Path, dataset: Path, count: int, seed: int, longest: int) -> Calibration:
    """`count` rows of `dataset/train.parquet` (all where there are fewer), chosen by `seed`, in file order.

    Rendered and tokenized as in training; cut to `longest` tokens, the model's context.
    Raises `InvalidInput` without a training split, a chat template or a row long enough, and for a template
    that training refuses.
    """
    tokenizer = load_tokenizer(model)
    picked = _pick(dataset, count, seed)
    encoded = [encode_with_mask(tokenizer, messages)[0][:longest] for messages in picked]
    rows = [row for row in encoded if len(row) >= SHORTEST]
    if not rows:
        raise InvalidInput(
            f"none of the {len(encoded)} rows chosen for calibration has at least {SHORTEST} tokens; "
            "raise calibration_rows or give a dataset with longer rows"
        )
    return Calibration(rows, digest(rows), len(encoded) - len(rows))


def _pick(dataset: Path, count: int, seed: int) -> list[list[dict[str, str]]]:
    import pyarrow.parquet as pq

    file = dataset / "train.parquet"
    if not file.is_file():
        raise InvalidInput(
            f"{dataset} holds no train.parquet; expected a prepared dataset: make one with the prepare stage"
        )
    table = pq.ParquetFile(file)
    if "messages" not in table.schema_arrow.names or not table.metadata.num_rows:
        raise InvalidInput(
            f"{file}: expected rows with a column 'messages', found {table.metadata.num_rows} rows with "
            f"{', '.join(table.schema_arrow.names)}; make it with the prepare stage"
        )
    total = table.metadata.num_rows
    chosen = set(random.Random(seed).sample(range(total), min(count, total)))
    chats: list[list[dict[str, str]]] = []
    start = 0
    for batch in table.iter_batches(columns=["messages"]):
        column = batch.column("messages")
        chats += [column[k].as_py() for k in range(len(column)) if start + k in chosen]
        start += len(column)
    return chats
