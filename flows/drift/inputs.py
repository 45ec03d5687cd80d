"""The inputs of rows: what users wrote, without system messages and answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import pyarrow
import pyarrow.parquet as pq

from flows.errors import Usage
from stages.data.files import READERS, data_suffix, read_file
from stages.errors import InvalidInput

_KEYS = ("prompt", "instruction", "question", "input", "query", "text")
EXPECTED = (
    "expected rows with messages: [{role: user, content: …}], conversations, or one of the fields "
    f"{', '.join(_KEYS)}"
)
_USERS = ("user", "human")
_ANSWERS = 1000
"""Answers by which it is told whether a dataset's are JSON."""


def trained_on(dataset: Path) -> Iterator[str]:
    """The inputs of a prepared dataset's train split. Raises `Usage`, also where it has none: documents."""
    none = True
    for messages in _chats(dataset):
        if text := _users({"messages": messages}):
            none = False
            yield text
    if none:
        raise Usage(
            "nobody asks anything in the rows that were trained on, as in documents (prepare.format: text); "
            "what is asked now cannot be compared with them"
        )


def answers_json(dataset: Path) -> bool:
    """Whether the first answers of a prepared dataset's train split are all JSON. Raises `Usage`."""
    answers = [messages[-1]["content"] for messages in islice(_chats(dataset), _ANSWERS)]
    return bool(answers) and all(map(is_json, answers))


def is_json(text: str) -> bool:
    """Whether it is one JSON document, as the gateway asks; Infinity and NaN are none."""
    try:
        json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return False
    return True


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)


def _chats(dataset: Path) -> Iterator[list[dict[str, Any]]]:
    file = dataset / "train.parquet"
    try:
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(batch_size=1000, columns=["messages"]):
                yield from batch.column("messages").to_pylist()
    except (OSError, pyarrow.ArrowException, KeyError) as error:
        raise Usage(f"the training data {file} cannot be read: {str(error).splitlines()[0]}") from None


def new_rows(path: Path) -> Iterator[str]:
    """The inputs of a file of new rows, in their order. Raises `Usage` naming the file and the row."""
    if not path.is_file():
        raise Usage(f"{path}: no such file; expected a file of new rows ({', '.join(READERS)})")
    if not data_suffix(path.name):
        raise Usage(f"{path}: expected a file whose name ends with one of {', '.join(READERS)}, also .gz")
    try:
        for record in read_file(path, path.name):
            if record.row is None:
                raise Usage(f"{path}, line {record.line}: {record.error}; mend it or leave it out")
            text = _users(record.row)
            if not text:
                raise Usage(f"{path}, line {record.line} has no input: {EXPECTED}")
            yield text
    except InvalidInput as error:
        raise Usage(f"{path}: {error}") from None


def _users(row: Mapping[str, Any]) -> str:
    """What the user wrote in this row, turns joined by line breaks; empty where it has none."""
    turns = row.get("messages") or row.get("conversations") or row.get("turns")
    if isinstance(turns, list):
        texts = [
            turn.get("content") or turn.get("value") or turn.get("text")
            for turn in turns
            if isinstance(turn, Mapping)
            and (turn.get("role") or turn.get("from") or turn.get("sender")) in _USERS
        ]
        return "\n".join(text for text in texts if isinstance(text, str) and text.strip())
    given = [row[key] for key in _KEYS if isinstance(row.get(key), str) and row[key].strip()]
    return "\n".join(given[:2])
