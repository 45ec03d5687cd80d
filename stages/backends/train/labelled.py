"""Prepared answers that are each called good or bad, as token ids and labels; and after another's prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from stages.backends.chat import Tokenizer
from stages.backends.train.rows import IGNORED, Rows, append_encoded
from stages.errors import InvalidInput
from stages.formats.messages import last_answer_only
from stages.formats.splits import undesirable


@dataclass(frozen=True)
class Labelled(Rows):
    """Rows of which only the last answers have labels, and whether each answer is called good."""

    desirable: list[bool] = field(default_factory=list)


def encode_labelled(file: Path, tokenizer: Tokenizer, max_length: int) -> Labelled:
    """Read one split of prepared answers, the good ones first. A file that is not there is an empty split.

    Raises `InvalidInput` for a dataset without bad answers, or without good ones, and for a row as
    `encode_split` does.
    """
    rows = Labelled([], [])
    if not file.is_file():
        return rows
    if not undesirable(file).is_file():
        raise InvalidInput(
            f"{file.name} has answers that nobody called good or bad, and train.method: kto learns from "
            "that; prepare them with prepare.format: unpaired-preferences, or set train.method: sft"
        )
    for part, good in ((file, True), (undesirable(file), False)):
        for number, chat in enumerate(pq.read_table(part, columns=["messages"])["messages"].to_pylist()):
            place = f"{part.name} row {number}"
            append_encoded(rows, last_answer_only(chat), tokenizer, max_length, place)
            rows.desirable.append(good)
    return rows


def after_other_prompts(rows: Labelled, places: Sequence[tuple[int, int]]) -> Labelled:
    """The prompt of row i with the answer of row j for each (i, j): what tells how far a model has moved.

    None is longer than the longest of `rows`: more of an answer is cut off.
    """
    longest = max(rows.lengths, default=0)
    found = Labelled([], [])
    for asked, answered in places:
        prompt = rows.input_ids[asked][: _taught(rows, asked)[0]]
        first, end = _taught(rows, answered)
        answer = rows.input_ids[answered][first:end][: longest - len(prompt)]
        found.input_ids.append([*prompt, *answer])
        found.labels.append([*[IGNORED] * len(prompt), *answer])
        found.desirable.append(rows.desirable[asked])
    return found


def _taught(rows: Labelled, row: int) -> tuple[int, int]:
    """Where the answer begins and ends."""
    places = [place for place, label in enumerate(rows.labels[row]) if label != IGNORED]
    return places[0], places[-1] + 1
