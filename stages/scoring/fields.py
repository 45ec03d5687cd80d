"""Values of a JSON answer against those of the reference: how many there are, and how many are right.

A *value* is a text, number, truth value or null, or an empty object or list. Its *field* is the path of keys
that leads to it, lists left out: `items.price`. Objects are compared key by key. The entries of two lists are
paired so that most values agree (an optimal assignment: Crouse 2016, IEEE TAES 52:1679, as in scipy), so the
order of a list does not count.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from stages.config.metrics import FIGURES, MOST_FIELDS, FieldsMetric
from stages.errors import InvalidInput
from stages.scoring.documents import document
from stages.scoring.item import CorpusMetric, ItemScore, ReadyMetric
from stages.scoring.text import normalized

WHOLE = "(whole)"
"""The field of a document that is a single value."""
Same = Callable[[Any, Any], bool]
"""Whether a reference's value (first) and an answer's are equal; neither is an object or a list."""


def fields(metric: FieldsMetric, targets: Sequence[Sequence[str]]) -> ReadyMetric:
    """Matched, predicted and expected values, of all fields and of each that is reported.

    Raises `InvalidInput` where a reference is no JSON, or a field of the metric is in no reference.
    """
    wanted = {
        reference: _expected(metric, reference, row) for row, r in enumerate(targets) for reference in r
    }
    known = list(dict.fromkeys(path for value in wanted.values() for path in values(value)))
    reported = _reported(metric, known)
    same = sameness(metric.text, metric.tolerance)

    def score(answer: str, references: Sequence[str]) -> ItemScore:
        found = document(answer)
        options = [_counts(wanted[reference], found, same) for reference in references]
        best = max(options, key=lambda option: _f1(_sum(option, None)))
        counts = {metric.name: _sum(best, None)}
        counts |= {f"{metric.name}[{field}]": _sum(best, field) for field in reported}
        return ItemScore(counts=counts)

    corpus = {f"{metric.name}_{figure}": CorpusMetric(figure, metric.name) for figure in FIGURES}
    for field in reported:
        for figure in FIGURES:
            corpus[f"{metric.name}_{figure}[{field}]"] = CorpusMetric(figure, f"{metric.name}[{field}]")
    return ReadyMetric(score, dict.fromkeys(corpus, "share"), corpus)


def values(tree: Any, path: str = "") -> Counter[str]:
    """Field → how many values it has in `tree`."""
    if isinstance(tree, Mapping) and tree:
        return _total(values(part, f"{path}.{key}" if path else key) for key, part in tree.items())
    if isinstance(tree, list) and tree:
        return _total(values(part, path) for part in tree)
    return Counter({path or WHOLE: 1})


def matched(expected: Any, predicted: Any, same: Same, path: str = "") -> Counter[str]:
    """Field → how many values of `predicted` are those of `expected`."""
    if isinstance(expected, Mapping) and isinstance(predicted, Mapping) and expected and predicted:
        shared = [key for key in expected if key in predicted]
        return _total(
            matched(expected[key], predicted[key], same, f"{path}.{key}" if path else key) for key in shared
        )
    if isinstance(expected, list) and isinstance(predicted, list) and expected and predicted:
        return _paired(expected, predicted, same, path)
    containers = isinstance(expected, Mapping | list), isinstance(predicted, Mapping | list)
    if any(containers):
        equal = type(expected) is type(predicted) and not expected and not predicted
    else:
        equal = same(expected, predicted)
    return Counter({path or WHOLE: 1}) if equal else Counter()


def _paired(expected: Sequence[Any], predicted: Sequence[Any], same: Same, path: str) -> Counter[str]:
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    pairs = [[matched(one, other, same, path) for other in predicted] for one in expected]
    agreeing = np.array([[pair.total() for pair in row] for row in pairs])
    chosen = zip(*linear_sum_assignment(agreeing, maximize=True), strict=True)
    return _total(pairs[row][column] for row, column in chosen)


def _expected(metric: FieldsMetric, reference: str, row: int) -> Any:
    found = document(reference)
    try:
        if found is not None:
            values(found[0])
            return found[0]
    except RecursionError:
        pass
    raise InvalidInput(
        f"metric {metric.name}: the expected answer of row {row} of the split is not JSON: "
        f"{reference[:80]!r}; take the metric out, or the row"
    )


def _reported(metric: FieldsMetric, known: Sequence[str]) -> Sequence[str]:
    if metric.fields is None:
        return known if len(known) <= MOST_FIELDS else ()
    for field in metric.fields:
        if not any(_within(path, field) for path in known):
            near = difflib.get_close_matches(field, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; they have {', '.join(known[:8])}"
            raise InvalidInput(f"metric {metric.name}: no expected answer has the field {field!r}{hint}")
    return metric.fields


def _counts(
    expected: Any, found: tuple[Any] | None, same: Same
) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Matched, predicted and expected values by field; of an answer that is no JSON none is predicted."""
    there = values(expected)
    if found is None:
        return Counter(), Counter(), there
    try:
        return matched(expected, found[0], same), values(found[0]), there
    except RecursionError:  # nested more deeply than any reference
        return Counter(), Counter(), there


def _sum(counts: Sequence[Counter[str]], field: str | None) -> tuple[float, ...]:
    return tuple(
        float(sum(n for path, n in part.items() if field is None or _within(path, field))) for part in counts
    )


def _within(path: str, field: str) -> bool:
    return path == field or path.startswith(f"{field}.")


def _f1(counts: Sequence[float]) -> float:
    right, predicted, expected = counts
    return 2 * right / (predicted + expected)


def _total(parts: Any) -> Counter[str]:
    whole: Counter[str] = Counter()
    for part in parts:
        whole.update(part)
    return whole


def sameness(text: Literal["exact", "normalized"], tolerance: float) -> Same:
    """When two values are equal: texts as `text` says, numbers by value up to `tolerance`."""
    prepared = normalized if text == "normalized" else str.strip

    def same(expected: Any, predicted: Any) -> bool:
        if isinstance(expected, str) and isinstance(predicted, str):
            return prepared(expected) == prepared(predicted)
        if isinstance(expected, bool | None) or isinstance(predicted, bool | None):
            return expected is predicted
        if isinstance(expected, str) or isinstance(predicted, str):
            return False
        return _near(expected, predicted, tolerance)

    return same


def _near(expected: float, predicted: float, tolerance: float) -> bool:
    if expected == predicted or not tolerance:
        return expected == predicted
    try:
        rounding = 1e-12 * max(abs(float(expected)), abs(float(predicted)))
        return abs(float(expected) - float(predicted)) <= tolerance + rounding
    except OverflowError:  # a whole number beyond what a float holds
        return False
