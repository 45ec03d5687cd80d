"""The figures in an evaluation's files: a value with its interval, and what a file's matrices keep."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class Metric(TypedDict):
    """A value with its 95 % interval, over `n` items or chats; `unit`: where it is no share; `figure`: of all
    items together, from their summed `counts` (`stages.statistics.corpus`)."""

    value: float
    low: float
    high: float
    n: int
    interval: Literal["wilson", "normal", "bootstrap", "clustered", "logit"]
    unit: NotRequired[str]
    figure: NotRequired[Literal["precision", "recall", "f1", "bleu", "log_likelihood", "perplexity"]]
    counts: NotRequired[str]


class RoundingCost(TypedDict):
    """What rounding the reference to nearest costs, with as many bits."""

    bits: int
    group_size: int
    ends: bool
    kl_mean: Metric


class MatrixDifference(TypedDict):
    """How much of a matrix of the parent a file holds (`share`), and its error beside that of rounding."""

    module: str
    share: float
    error: float
    rounding: float


class LayerComparison(TypedDict):
    """The matrices of a quantized file against those of its parent; `wrong`: the worst first."""

    compared: int
    error: float
    rounding: float
    wrong: list[MatrixDifference]
