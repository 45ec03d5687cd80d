"""Prepared answers that are each called good or bad, as token ids and labels; and after another's prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from stages.backends.chat import Tokenizer
from stages.backends.train.rows import IGNORED, Encoded, Rows, encode_chat, keep_rows
from stages.errors import InvalidInput
from stages.formats.dataset_rows import read_in_parts
from stages.formats.messages import last_answer_only
from stages.formats.splits import undesirable


class Labelled:
    """Rows of which only the last answers have labels, the first `good` of them those with good answers."""

    def __init__(self, rows: Rows, good: int) -> None:
        self._rows, self.lengths, self.tokens = rows, rows.lengths, rows.tokens
        self.desirable = np.arange(len(rows)) < good

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, place: int) -> dict[str, Any]:
        """`input_ids` and `labels` of a row, whether it is `desirable`, and its `place`."""
        return {**self._rows[place], "desirable": bool(self.desirable[place]), "place": place}


class AfterOtherPrompts:
    """The prompt of row i with the answer of row j for each (i, j): what tells how far a model has moved.

    None is longer than the longest of `rows`: more of an answer is cut off.
    """

    def __init__(self, rows: Labelled, places: Sequence[tuple[int, int]]) -> None:
        self._rows, self._places = rows, np.array(places, dtype=np.int64).reshape(-1, 2)
        spans = [_taught(rows[place]["labels"]) for place in range(len(rows))]
        self._spans = np.array(spans, dtype=np.int32).reshape(-1, 2)
        asked, answered = self._places.T
        prompts, answers = self._spans[asked, 0], np.diff(self._spans[answered])[:, 0]
        self.lengths = np.minimum(prompts + answers, rows.lengths.max(initial=0))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, place: int) -> dict[str, Any]:
        """As of `Labelled`; `desirable` as row i is."""
        asked, answered = self._places[place]
        row, (first, end) = self._rows[asked], self._spans[answered]
        prompt = row["input_ids"][: self._spans[asked, 0]]
        answer = self._rows[answered]["input_ids"][first:end][: self.lengths[place] - len(prompt)]
        return {
            "input_ids": np.concatenate([prompt, answer]),
            "labels": np.concatenate([np.full(len(prompt), IGNORED), answer]),
            "desirable": row["desirable"],
            "place": place,
        }


def encode_labelled(file: Path, tokenizer: Tokenizer, max_length: int, folder: Path) -> Labelled:
    """Read one split of prepared answers, the good ones first, as `encode_split` does.

    Raises `InvalidInput` for a dataset without bad answers, or without good ones, too.
    """
    parts = [file, undesirable(file)] if file.is_file() else []
    if parts and not parts[1].is_file():
        raise InvalidInput(
            f"{file.name} has answers that nobody called good or bad, and train.method: kto learns from "
            "that; prepare them with prepare.format: unpaired-preferences, or set train.method: sft"
        )
    good = pq.read_metadata(file).num_rows if parts else 0
    return Labelled(keep_rows(_answers(parts, tokenizer, max_length), folder), good)


def _answers(parts: Sequence[Path], tokenizer: Tokenizer, max_length: int) -> Iterator[Encoded]:
    for part in parts:
        for number, row in enumerate(read_in_parts(part, ["messages"])):
            chat = last_answer_only(row["messages"])
            yield encode_chat(chat, tokenizer, max_length, f"{part.name} row {number}")


def _taught(labels: np.ndarray) -> tuple[int, int]:
    """Where the answer begins and ends."""
    places = np.flatnonzero(labels != IGNORED)
    return int(places[0]), int(places[-1]) + 1
