"""What of a row is kept beside its chat: further right answers, and the columns that slices are made of."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from stages.data.fields import ANSWERS, READ, says_nothing
from stages.data.source_row import Kept, RowError, SourceRows, kind, named, shown
from stages.errors import InvalidInput
from stages.formats.dataset_rows import REFERENCES

LONGEST_VALUE = 200
"""Characters of a value that makes a slice."""
_CHATS = ("messages", "conversations", "turns")
_PLACES = {"instruction": "output", "prompt": "completion", "question": "answer", "input": "output"}
"""Field of a question → that of its answer."""


def with_kept(rows: SourceRows, slices: Sequence[str], source: str) -> SourceRows:
    """The rows with what `Kept` says of each, taken out of its fields; a row that is wrong has an error.

    Raises `InvalidInput` for a column that a format reads, and after the last row where none had one of the
    columns.
    """
    if read := [name for name in slices if name in READ]:
        raise InvalidInput(
            f"{source}: prepare.slices: {named(read[0])} is a field that a format reads; give the column "
            "another name, or slice by another one"
        )
    missing = dict.fromkeys(slices)
    for source_row in rows:
        if source_row.row is None:
            yield source_row
            continue
        for name in [name for name in missing if name in source_row.row]:
            missing.pop(name)
        try:
            row, references = other_answers(source_row.row)
            values = {name: text for name in slices if (text := _value(name, row.pop(name, None)))}
        except RowError as error:
            yield replace(source_row, row=None, error=str(error))
            continue
        unread = tuple(name for name in source_row.unread if name not in slices)
        kept = Kept(references, values) if references or values else None
        yield replace(source_row, row=row, kept=kept, unread=unread)
    if missing:
        raise InvalidInput(
            f"{source}: prepare.slices: no row has {', '.join(map(named, missing))}; correct the name, or "
            "remove it"
        )


def other_answers(row: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The row with one answer, and its further right ones.

    They stand in `references` (a list of texts); in `answers` (the same, or SQuAD's {text: [...]}), whose
    first one is the answer where the row has no other; or beside the answer in its own place, as a list of
    texts or TriviaQA's {value, aliases}. Raises `RowError` for anything else there.
    """
    row = dict(row)
    further: list[str] = []
    named_answers = () if any(name in row for name in _CHATS) else ANSWERS
    answer = next((name for name in named_answers if not says_nothing(name, row.get(name))), None)
    if answer is not None and (several := _several(row[answer])) is not None:
        row[answer], *further = several
    given = row.pop("answers", None)
    if not says_nothing("answers", given):
        texts = _texts("answers", given.get("text") if isinstance(given, Mapping) else given)
        asked = next((name for name in _PLACES if name in row), None)
        if answer is None and named_answers and asked is not None:
            answer = _PLACES[asked]
            row[answer], *texts = texts
        further += texts
    references = row.pop(REFERENCES, None)
    if not says_nothing(REFERENCES, references):
        further += _texts(REFERENCES, references)
    own = row.get(answer) if answer else None
    return row, tuple(dict.fromkeys(text for text in further if text != own))


def _several(value: Any) -> Sequence[str] | None:
    """The texts of an answer that is several; None where it is one, or a list of messages."""
    if isinstance(value, Mapping) and isinstance(value.get("aliases"), list) and "value" in value:
        return _texts("aliases", [value["value"], *value["aliases"]])
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        return _texts("the answer", value)
    return None


def _texts(name: str, value: Any) -> list[str]:
    if isinstance(value, str) and value.lstrip().startswith("["):  # a cell of a CSV file
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        found = shown(value) if isinstance(value, list) else kind(value)
        raise RowError("wrong_type", f"{name} is {found}, expected a list of texts")
    if not texts or not all(text.strip() for text in texts):
        raise RowError("empty_message", f"{name} holds no text, or an empty one")
    return texts


def _value(name: str, value: Any) -> str | None:
    """The value as a gate's `slice` names it; None where the row has none."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str | bool | int | float):
        raise RowError(
            "wrong_type",
            f"{named(name)} is {kind(value)}; prepare.slices takes texts, numbers and truth values",
        )
    text = value.strip() if isinstance(value, str) else json.dumps(value)
    if len(text) > LONGEST_VALUE or not text.isprintable():
        raise RowError(
            "wrong_type",
            f"{named(name)} is {shown(text)}; a value of prepare.slices has at most {LONGEST_VALUE} "
            "printable characters",
        )
    return text


def refuse_several(kept: Kept | None) -> None:
    """Raise `RowError` for several right answers, where one is all that can be kept."""
    if kept is not None and kept.references:
        raise RowError(
            "unsupported_field",
            "the row has several right answers, and a feed keeps one: take out the others",
        )
