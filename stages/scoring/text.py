"""Texts compared as texts: equal after normalization, one in the other, their numbers, their length."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import Literal

from stages.config.metrics import ContainsMetric, LengthMetric, NormalizedMetric, NumberMetric
from stages.errors import InvalidInput
from stages.scoring.item import ItemScore, ReadyMetric, single

_MINUS = "-\u2212\u2010"
_DROPPED = ".'\N{RIGHT SINGLE QUOTATION MARK}"
_SPACED_SCRIPTS = 0x0E00
"""Characters below are of scripts with spaces between words; Thai, at U+0E00, is the first without."""
_NUMBER = re.compile(
    r"(?<![\w.])[-+\u2212]?(?:\d{1,3}(?:[,\u00a0\u202f]\d{3})+(?!\d)|\d+)(?:\.\d+)?"
    r"(?:[eE][-+]?\d{1,3}(?!\d))?",
    re.ASCII,
)


def normalized(text: str) -> str:
    """`text` with what rarely matters taken out.

    Compatibility forms and case are folded (NFKC, casefold). Of punctuation (Unicode's P…), what stands
    between two digits stays, and so does a minus before a number; full stops and apostrophes go; all else
    becomes a space. White space becomes one space, and none at the ends. Symbols ($, %, +) stay.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(_kept(folded, i) for i in range(len(folded))).split())


def _kept(text: str, i: int) -> str:
    character, before, after = text[i], text[i - 1 : i] if i else "", text[i + 1 : i + 2]
    if character in _MINUS and after.isdigit() and not before.isalnum():
        return "-"
    if not unicodedata.category(character).startswith("P"):
        return character
    if before.isdigit() and after.isdigit():
        return character
    return "" if character in _DROPPED else " "


def contains(text: str, part: str) -> bool:
    """Whether `part` is in `text` and neither begins nor ends within a word.

    Scripts that put no spaces between words have no such borders.
    """
    if not part:
        return False
    at = text.find(part)
    while at >= 0:
        end = at + len(part)
        if not _within_word(text[at - 1 : at] if at else "", part[0]) and not _within_word(
            part[-1], text[end : end + 1]
        ):
            return True
        at = text.find(part, at + 1)
    return False


def _within_word(one: str, other: str) -> bool:
    return all(c.isalnum() and ord(c) < _SPACED_SCRIPTS for c in (one, other) if c) and bool(one and other)


def number_in(text: str, take: Literal["first", "last"] = "last") -> Decimal | None:
    """The first or last number of a text; None where there is none.

    Digits with a decimal point, with commas or no-break spaces between thousands, with a sign and an
    exponent of at most three digits. What follows (%, kg) does not count.
    """
    found = _NUMBER.findall(text)
    if not found:
        return None
    digits = re.sub("[,\u00a0\u202f]", "", found[0 if take == "first" else -1])
    return Decimal(digits.replace("\u2212", "-"))


def normalized_match(metric: NormalizedMetric) -> ReadyMetric:
    """1 where the answer is a reference after normalization."""

    def score(answer: str, references: Sequence[str]) -> float:
        said = normalized(answer)
        return float(any(said == normalized(reference) for reference in references))

    return single(metric.name, score)


def contained(metric: ContainsMetric) -> ReadyMetric:
    """1 where the answer contains a reference, or the metric's text."""

    def prepared(text: str) -> str:
        return normalized(text) if metric.normalize else text.strip()

    def score(answer: str, references: Sequence[str]) -> float:
        wanted = [metric.text] if metric.text is not None else references
        said = prepared(answer)
        return float(any(contains(said, prepared(part)) for part in wanted))

    if metric.text is not None and not prepared(metric.text):
        raise InvalidInput(
            f"metric {metric.name}: nothing is left of the text {metric.text!r} when it is normalized; give "
            "another one, or normalize: false"
        )
    return single(metric.name, score)


def number_match(metric: NumberMetric, targets: Sequence[Sequence[str]]) -> ReadyMetric:
    """1 where the answer's number is that of a reference. Raises `InvalidInput` where one has no number."""
    for row, references in enumerate(targets):
        for reference in references:
            if number_in(reference, metric.take) is None:
                raise InvalidInput(
                    f"metric {metric.name}: the expected answer of row {row} of the split has no number: "
                    f"{reference[:80]!r}; take the metric out, or the row"
                )

    def near(said: Decimal, reference: str) -> bool:
        wanted = number_in(reference, metric.take)
        assert wanted is not None
        allowed = max(Decimal(str(metric.absolute)), Decimal(str(metric.relative)) * abs(wanted))
        return abs(said - wanted) <= allowed

    def score(answer: str, references: Sequence[str]) -> float:
        said = number_in(answer, metric.take)
        return float(said is not None and any(near(said, reference) for reference in references))

    return single(metric.name, score)


def length(metric: LengthMetric) -> ReadyMetric:
    """The number of words or characters, and whether the bounds are kept."""
    kept = f"{metric.name}_kept"

    def score(answer: str, _: Sequence[str]) -> ItemScore:
        size = len(answer.split()) if metric.unit == "words" else len(answer)
        found = {metric.name: float(size)}
        if metric.bounded:
            high = metric.at_most if metric.at_most is not None else size
            found[kept] = float((metric.at_least or 0) <= size <= high)
        return ItemScore(found)

    return ReadyMetric(score, {metric.name: metric.unit, **({kept: "share"} if metric.bounded else {})})
