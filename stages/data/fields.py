"""What becomes of each field of a row: read, refused by its name, or listed as not used.

A field that says what is to be learned and is left out in silence gives another model than the data
describe, and no error. So a row with such a field is refused as long as Tuneline does not use it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from stages.data.source_row import RowError, SourceRows, named
from stages.errors import InvalidInput
from stages.formats.dataset_rows import REFERENCES

_CHATS, _INSTRUCTIONS = ("messages", "conversations", "turns"), ("instruction", "input", "context", "output")
_PAIRS = ("prompt", "completion", "response", "question", "answer")
COMPARED = ("chosen", "rejected", "preferred_output", "non_preferred_output")
LABELS = ("label", "kto_tag")
"""Names of the field that calls an answer good or bad."""
_FURTHER = (REFERENCES, "answers")
_BESIDE = ("text", "system", "history", "parallel_tool_calls", *_FURTHER, *LABELS)
READ = frozenset((*_CHATS, *_INSTRUCTIONS, *_PAIRS, *COMPARED, *_BESIDE))
"""Fields of a row that some format reads; in another format they may be refused or not be used."""

_TOOLS = "this format has no tools and no calls"
_CALL = "a call belongs to an assistant's message, its result to one of role tool"
_REASONING = "reasoning stands in an assistant's message, of messages or conversations"
_QUESTIONS, ANSWERS = ("prompt", "question", "instruction"), ("completion", "response", "output", "answer")
REASONING = ("reasoning_content", "reasoning", "thinking")
"""Names of the field of an assistant's message with what it thought before its answer."""
_MEDIA = "only text is trained"
_PREFERENCE = "pairs of answers are read with prepare.format: preferences"
_LABEL = "labels of single answers (KTO) are read with prepare.format: unpaired-preferences"
_SHARE = "which answers are trained is said by weight (0 or 1) and prepare.train_on: weight"
_MEANT = {
    **dict.fromkeys(("tools", "functions"), _TOOLS),
    **dict.fromkeys(("tool_calls", "function_call", "tool_call_id"), _CALL),
    **dict.fromkeys(REASONING, _REASONING),
    **dict.fromkeys(("images", "image", "videos", "video", "audios", "audio"), _MEDIA),
    **dict.fromkeys(COMPARED, _PREFERENCE),
    "kto_tag": _LABEL,
    "weight": _SHARE,
}
REFUSED_IN_ROW = {
    **_MEANT,
    "label": _LABEL,
    "history": "this format has no earlier turns beside the messages",
    **dict.fromkeys(("context", "input"), "this format does not say where in the prompt it belongs"),
    **dict.fromkeys(("chat_template_kwargs", "documents"), "chats are rendered from their messages alone"),
}
"""Field of a row → why it cannot be used, where its format does not read it."""
REFUSED_IN_TURN = {
    **_MEANT,
    **dict.fromkeys(("loss", "loss_weight", "train", "training", "train_on_turn"), _SHARE),
    "name": "several speakers of one role are not distinguished",
    "prefix": "an answer is trained from its beginning",
}
"""Field of a message → why it cannot be used."""
_SHARES = frozenset(name for name, why in REFUSED_IN_TURN.items() if why == _SHARE)


def says_nothing(name: str, value: Any) -> bool:
    """Whether leaving the field out changes nothing: blank, empty, or what holds for every row anyway."""
    if name in _SHARES:
        return value in (None, "", 1, "1", "1.0", "true", "True")
    if name in ("kto_tag", "label") and value is False:  # a bad answer
        return False
    if isinstance(value, str):  # a cell of a CSV file may hold a list as text
        return value.strip() in ("", "[]", "{}", "null")
    return value is None or value is False or (isinstance(value, list | dict | tuple) and not value)


def require_fields(columns: Mapping[str, str]) -> None:
    """Raise `InvalidInput` where `prepare.columns` names a field that no format reads."""
    known = READ | {"tools", "functions"}
    if unknown := [field for field in columns.values() if field not in known]:
        raise InvalidInput(
            f"prepare.columns: {named(unknown[0])} is not a field that a format reads; expected one of "
            f"{', '.join(sorted(known))}"
        )


def renamed(rows: SourceRows, columns: Mapping[str, str], source: str) -> SourceRows:
    """The rows with the fields' names in place of those that `columns` says the data have.

    A row that has both names, and says something under each, comes with an error. Raises `InvalidInput` after
    the last row where none had one of the columns.
    """
    missing = dict.fromkeys(columns)
    for source_row in rows:
        row = source_row.row
        if row is None:
            yield source_row
            continue
        found = {name: field for name, field in columns.items() if name in row}
        for name in found:
            missing.pop(name, None)
        taken = [f for n, f in found.items() if f not in found and not says_nothing(f, row.get(f))]
        if taken:
            name = next(n for n, f in found.items() if f == taken[0])
            error = f"the row has {named(taken[0])}, and {named(name)}, which prepare.columns reads as that"
            yield replace(source_row, row=None, error=error)
            continue
        kept = {name: value for name, value in row.items() if name not in found.values() or name in found}
        yield replace(source_row, row={found.get(name, name): value for name, value in kept.items()})
    if missing:
        raise InvalidInput(
            f"{source}: prepare.columns: no row has {', '.join(map(named, missing))}; correct the name, or "
            "remove it"
        )


def require_one(row: Mapping[str, Any], asked: Collection[str], answer: str) -> None:
    """Raise `RowError` where a row has another question or another answer beside those that are read."""
    for names, used, what in ((_QUESTIONS, asked, "question"), (ANSWERS, (answer,), "answer")):
        for name in names:
            value = row.get(name)
            if name not in used and not says_nothing(name, value) and all(value != row.get(u) for u in used):
                both = f"{next(iter(used))} and {name}"
                raise RowError("unsupported_field", f"the row has {both}; keep one as the {what}")


def account(
    fields: Mapping[str, Any],
    used: Collection[str],
    refused: Mapping[str, str],
    prefix: str,
    place: str,
    unused: Counter[str],
) -> None:
    """Count in `unused` each field outside `used` that says something; `prefix` comes before its name.

    Raises `RowError` with the name of a field that is in `refused`; `place` says where it stands.
    """
    for name, value in fields.items():
        if name in used or says_nothing(name, value):
            continue
        if name in refused and not _is_class(name, value):
            raise RowError("unsupported_field", f"{place} has {name}: {refused[name]}")
        unused[prefix + named(name)] += 1


def _is_class(name: str, value: Any) -> bool:
    """Whether it is the label of a class, and not one that calls the answer good or bad."""
    return name == "label" and str(value).strip().lower() not in ("true", "false")
