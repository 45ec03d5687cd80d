"""What Evidently says of the same simulated days, asked daily, with the tests and limits that it chooses.

It is no dependency, and its release 0.7.23 does not import with pandas 3: for this comparison install
`evidently` and `pandas<3` into an environment of its own that has Tuneline's packages too. Its tests are
called one by one: a whole report of six columns, which draws them as well, takes 0.4 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from flows.drift.comparison import DriftComparison
from tests.bench.drift import CHANGES, ROWS_A_DAY, Firsts, days

COLUMN, DATASET, TEXT = "Evidently, column", "Evidently, half", "Evidently, text"
"""One of the columns drifted; half of them, which it calls drift of the dataset; its classifier of texts."""


def require() -> None:
    """Ends with one message where it is not installed, or cannot be imported."""
    try:
        import evidently  # noqa: F401
    except ImportError as error:
        raise SystemExit(
            f"--evidently needs Evidently, which cannot be imported here ({error}): install evidently and "
            "'pandas<3' with pip into a scratch environment, and run this there"
        ) from None
    _draw_once()


def judge(change: str, seed: int, count: int) -> Firsts:
    """Way → the row at which it first says drift, beside the e-values of the same rows."""
    stream = days(seed, CHANGES[change], count)
    texts, _ = next(stream)
    comparison = DriftComparison(texts)
    first: Firsts = {"e-values": None, COLUMN: None, DATASET: None, TEXT: None}
    for day, (_, new) in enumerate(stream, 1):
        comparison.add(new)
        values = np.array([comparison.values(text) for text in new])
        drifted = [_drifted(*columns) for columns in zip(comparison.reference.T, values.T, strict=True)]
        said = {
            COLUMN: any(drifted),
            DATASET: np.mean(drifted) >= 0.5,
            TEXT: first[TEXT] or _drifted(texts, new),
        }
        for way, is_drift in said.items():
            if first[way] is None and is_drift:
                first[way] = day * ROWS_A_DAY
    first["e-values"] = comparison.state.first_row
    return first


def _drifted(reference: Sequence[Any] | np.ndarray, new: Sequence[Any] | np.ndarray) -> bool:
    """By the test that it takes by default for a column of this kind and length, at its own limit."""
    from evidently.legacy.calculations.stattests import get_stattest
    from evidently.legacy.core import ColumnType

    kind = ColumnType.Text if isinstance(new[0], str) else ColumnType.Numerical
    columns = pd.Series(reference), pd.Series(new)
    return bool(get_stattest(*columns, kind, None)(*columns, kind, None).drifted)


def _draw_once() -> None:
    """The scores of a random classifier depend on the number of rows alone: its seed is always the same."""
    from evidently.legacy.utils import data_drift_utils

    drawn = data_drift_utils.roc_auc_random_classifier_percentile

    @cache
    def of(labels: tuple[int, ...], p_value: float) -> float:
        return float(drawn(np.array(labels), p_value=p_value))

    data_drift_utils.roc_auc_random_classifier_percentile = lambda labels, p_value: of(tuple(labels), p_value)
