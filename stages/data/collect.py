"""The first pass: read, check and tokenize every row; put the good ones aside."""

from __future__ import annotations

import itertools
import json
import re
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO

from stages.backends.chat import Tokenizer, control_tokens, encode_with_mask, render
from stages.backends.template_check import NotRendered, TemplateCheck
from stages.config.prepare import TrainOn
from stages.contract import progress
from stages.data.chats.documents import pieces
from stages.data.fields import COMPARED, READ
from stages.data.formats import Messages, detect
from stages.data.preferences import EXPECTED, matches, read_row
from stages.data.row_spool import Checked, RowSpool, content_hash
from stages.data.source_row import Reject, RowError, SourceRow, SourceRows, named
from stages.errors import InvalidInput
from stages.formats.messages import is_document, texts

_LOOKED_AT = 100
_REPORTED = 1000  # rows between two reports of progress
_NAMED = 40  # fields that are named; where names are data, there would be no end to them
_OTHERS = "(other fields)"
_EARLIER_REASONING = "reasoning_content before the last question"
"""Of answers that are not learned. Some templates write none of it, also when the model is asked."""
CHARACTERS = 8
"""A text with fewer characters per allowed token than this is tokenized whole: ordinary text has 2 to 5."""
_CUT = 128  # tokens that cutting a text may make more of it than there would be: in its last word only


@dataclass
class RowCounts:
    """What became of the rows."""

    read: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)
    """field → accepted rows in which it said something that no format uses"""
    first_rejects: list[str] = field(default_factory=list)
    too_long: array[int] = field(default_factory=lambda: array("I"))


class RowCheck:
    """Turns a row into `Checked` rows: a document into its pieces, anything else into one.

    Counts in `unused` the fields that do not get into them. Raises `RowError` with the reason where it
    cannot, and `InvalidInput` where the chat template has no place for something that the row holds.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        format: str,
        system: str | None,
        max_length: int,
        train_on: TrainOn = "all",
    ) -> None:
        self._tokenizer = tokenizer
        self._train_on = train_on
        self._format = format
        self._system = system
        self._max_length = max_length
        self._left_out = TemplateCheck(tokenizer)
        control = sorted(control_tokens(tokenizer).values(), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, control)) or r"(?!)")

    def __call__(self, source_row: SourceRow, unused: Counter[str]) -> list[Checked]:
        if source_row.row is None:
            raise RowError("malformed", source_row.error or "the row cannot be read")
        unused.update(source_row.unread)
        read = read_row(self._format, source_row.row, self._system, unused, self._train_on)
        messages, other = read.messages, read.rejected
        if is_document(messages):
            return self._pieces(messages)
        ids, mask = self._rendered(messages, source_row, unused)
        if other is None:
            return [Checked(messages, len(ids), sum(mask), desirable=read.desirable)]
        try:
            other_ids, _ = self._rendered([*messages[:-1], other], source_row, unused)
        except TooLong:
            raise
        except RowError as error:
            raise RowError(error.code, f"rejected: {error}") from error
        if other_ids == ids:
            raise RowError("no_preference", "the chat template writes the same of chosen and rejected")
        return [Checked(messages, len(ids), sum(mask), other, len(other_ids))]

    def _pieces(self, document: Messages) -> list[Checked]:
        self._refuse_control_tokens(document)
        group, rows = content_hash(document), []
        for piece in pieces(self._tokenizer, document[0]["content"], self._max_length):
            ids, mask = encode_with_mask(self._tokenizer, [piece])
            rows.append(Checked([piece], len(ids), sum(mask), group=group))
        return rows

    def _rendered(
        self, messages: Messages, source_row: SourceRow, unused: Counter[str]
    ) -> tuple[list[int], list[int]]:
        """Token ids of a chat and the mask of what is trained, as `encode_with_mask` has them."""
        try:
            self._refuse_far_too_long(messages)
            self._refuse_control_tokens(messages)
            self._refuse_left_out(messages, source_row, unused)
            ids, mask = encode_with_mask(self._tokenizer, messages)
        except NotRendered:
            raise
        except InvalidInput as error:
            raise RowError("chat_template", str(error)) from error
        if len(ids) > self._max_length:
            raise TooLong(len(ids), self._max_length)
        if not sum(mask):
            raise RowError("nothing_trainable", "no token of the rendered chat is the assistant's")
        return ids, mask

    def _refuse_far_too_long(self, messages: Messages) -> None:
        if sum(len(text) for m in messages for text in texts(m)) > CHARACTERS * self._max_length:
            text = render(self._tokenizer, messages)
            if (tokens := tokens_if_above(self._tokenizer, text, self._max_length)) is not None:
                raise TooLong(tokens, self._max_length, "about ")

    def _refuse_control_tokens(self, messages: Messages) -> None:
        for number, message in enumerate(messages, 1):
            # It would be tokenized as the real thing: a message could end its turn or open another's.
            for text in texts(message):
                if control := self._control.search(text):
                    raise RowError(
                        "control_token", f"message {number} holds the control token {control[0]!r}"
                    )

    def _refuse_left_out(self, messages: Messages, source_row: SourceRow, unused: Counter[str]) -> None:
        """What the template leaves out of a row would be missing from training in silence."""
        try:
            left = self._left_out(messages)
        except NotRendered as error:
            raise NotRendered(f"{source_row.place}: {error}") from error
        if left.reasoning:
            unused[_EARLIER_REASONING] += 1
        if left.parts:
            raise RowError("not_rendered", f"the chat template does not write {', '.join(left.parts[:3])}")
        for parts, what in (
            (left.untaught, "does not mark as the assistant's"),
            (left.taught, "has learned"),
        ):
            if parts:
                raise RowError("not_rendered", f"the chat template {what} {', '.join(parts[:3])}")


class TooLong(RowError):
    def __init__(self, tokens: int, limit: int, about: str = "") -> None:
        super().__init__("too_long", f"{about}{tokens} tokens, more than max_length {limit}")
        self.tokens = tokens


def tokens_if_above(tokenizer: Tokenizer, text: str, limit: int) -> int | None:
    """An estimate of the tokens of a text that has more than `limit`; None where it may have fewer.

    A tokenizer works from left to right, so a text has at least as many tokens as its beginning has, but
    for a few at the cut. The beginning is doubled until it has too many: a row of 15 MB costs as much as one
    of a few thousand characters, with any tokenizer, also one that makes one token of a whole line.
    """
    size = limit * CHARACTERS
    while size < len(text):
        tokens = len(tokenizer(text[:size], add_special_tokens=False, verbose=False)["input_ids"])
        if tokens - _CUT > limit:
            return round(tokens * len(text) / size)
        size *= 2
    return None


def pick_format(rows: SourceRows, format: str, source: str) -> tuple[str, SourceRows]:
    """The declared format or the detected one, and the rows again from the first.

    Raises `InvalidInput` when there is no row at all, or none of the first has the fields needed.
    """
    first: list[SourceRow] = []
    detected = None
    for source_row in itertools.islice(rows, _LOOKED_AT):
        first.append(source_row)
        if source_row.row is None:
            continue
        if format == "auto":
            detected = detect(source_row.row)
        elif matches(format, source_row.row):
            detected = format
        if detected:
            break
    if not first:
        raise InvalidInput(f"{source} holds no rows; expected at least one")
    fields = next(([*map(named, r.row), *r.unread] for r in first if r.row is not None), None)
    if fields is not None and detected is None:
        expected = "; ".join(EXPECTED.values()) if format == "auto" else EXPECTED[format]
        which = (
            "by which no format is detected" if format == "auto" else f"which is not the format {format!r}"
        )
        raise InvalidInput(
            f"{source}: the rows have the fields {', '.join(fields[:_NAMED]) or '(none)'}, {which}; "
            f"{_likely(fields, format)}expected {expected}: name them in prepare.columns, or declare another "
            "prepare.format"
        )
    return detected or "messages", itertools.chain(first, rows)


def _likely(fields: Sequence[str], format: str) -> str:
    """What to set for fields that are nearly those of some format; empty where nothing is likely."""
    if renamed := {name: name.lower() for name in fields if name not in READ and name.lower() in READ}:
        names = ", ".join(f"{name}: {field}" for name, field in renamed.items())
        return f"set prepare.columns: {{{names}}} if that is what they are; "
    if format != "auto":
        return ""
    if not set(COMPARED).isdisjoint(fields):
        return "set prepare.format: preferences if each row has two answers, a better and a worse; "
    if {"text", "label"} <= set(fields):
        return "set prepare.columns: {text: prompt, label: completion} if the label is to be answered; "
    return "set prepare.format: text if they are documents; " if "text" in fields else ""


def collect(
    rows: SourceRows,
    check: RowCheck,
    spool: RowSpool,
    rejects: IO[str],
    counts: RowCounts,
    max_rows: int | None,
) -> None:
    """Check each row and put it into the spool, or write to `rejects` why not.

    Ends after `max_rows` good rows. `rejects` gets JSON lines of file, line, code and reason.
    """
    for source_row in rows:
        counts.read += 1
        unused: Counter[str] = Counter()
        try:
            for checked in check(source_row, unused):
                if len(spool) != max_rows:
                    spool.add(checked, source_row.file, source_row.line, source_row.kept)
        except RowError as error:
            _reject(source_row, error, rejects, counts)
        else:
            note(unused, counts.unused)
        if counts.read % _REPORTED == 0:
            progress(counts.read, None, "rows", accepted=len(spool), rejected=counts.rejected.total())
        if len(spool) == max_rows:
            break
    ignored = {"not_used": ", ".join(sorted(counts.unused)[:8])} if counts.unused else {}
    progress(
        counts.read, counts.read, "rows", accepted=len(spool), rejected=counts.rejected.total(), **ignored
    )


def note(unused: Counter[str], all_unused: Counter[str]) -> None:
    """Count the fields of one more row that are not used; beyond the first 40 they are counted together."""
    for name in unused:
        all_unused[name if name in all_unused or len(all_unused) < _NAMED else _OTHERS] += 1


def _reject(source_row: SourceRow, error: RowError, rejects: IO[str], counts: RowCounts) -> None:
    counts.rejected[error.code] += 1
    if isinstance(error, TooLong):
        counts.too_long.append(error.tokens)
    if len(counts.first_rejects) < 3:
        counts.first_rejects.append(f"{source_row.place}: {error}")
    entry: Reject = {
        "file": source_row.file,
        "line": source_row.line,
        "code": error.code,
        "reason": str(error),
    }
    if source_row.number:
        entry["row"] = source_row.number
    rejects.write(json.dumps(entry, ensure_ascii=False) + "\n")
