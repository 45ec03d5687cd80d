"""The scores of all items, summed up: each figure with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

from registry.evaluation_figures import Metric
from registry.evaluation_results import Item
from stages.errors import StageError
from stages.scoring.item import CorpusMetric
from stages.scoring.scorer import Scorer
from stages.statistics.cluster import clustered_mean
from stages.statistics.corpus import corpus_interval, each_of, value_of
from stages.statistics.intervals import wilson
from stages.statistics.pass_at import PREFIX, pass_interval

TAIL = 0.025
"""Of a 95 % interval, to each side."""


def sum_up(items: Sequence[Item], task: str, main: str, scorer: Scorer | None = None) -> dict[str, Metric]:
    """Every metric's figure, `main` first; marks each item with its own score of `main`.

    Raises `StageError` for a score that is not a finite number.
    """
    for item in items:
        bad = [metric for metric, score in item["scores"].items() if not math.isfinite(score)]
        if bad:
            raise StageError(f"task {task}, item {item['item'][:12]}: {bad[0]} is not a finite number")
    corpus = scorer.corpus if scorer is not None else {}
    units = scorer.units if scorer is not None else {}
    clusters = _clusters(items) if scorer is not None else None
    own = _own(items, corpus[main]) if main in corpus else [item["scores"][main] for item in items]
    for item, score in zip(items, own, strict=True):
        item["metric"], item["score"] = main, score
    metrics: dict[str, Metric] = {}
    for name in dict.fromkeys([main, *items[0]["scores"], *corpus]):
        if name in corpus:
            metrics[name] = together(items, corpus[name])
        else:
            metrics[name] = _mean(name, [item["scores"][name] for item in items], clusters)
        if units.get(name, "share") != "share":
            metrics[name]["unit"] = units[name]
    return metrics


def summarize(scores: Sequence[float], clusters: Sequence[str] | None = None) -> Metric:
    """Mean and 95 % interval.

    Wilson's for scores of 0 and 1, else ± 1.96 standard errors. Where items share `clusters`, the interval
    of a mean over clusters; where it has no spread, Wilson's of as many clusters.
    """
    n, total = len(scores), math.fsum(scores)
    mean, binary = total / n, set(scores) <= {0.0, 1.0}
    grouped = clusters is not None and 1 < len(set(clusters)) < n
    if grouped and clusters is not None and (len(set(scores)) > 1 or not binary):
        found = clustered_mean(scores, clusters, TAIL)
        low, high = (max(0.0, found.low), min(1.0, found.high)) if binary else (found.low, found.high)
        return {"value": mean, "low": low, "high": high, "n": n, "interval": "clustered"}
    if binary:
        m = len(set(clusters)) if grouped and clusters is not None else n
        low, high = wilson(mean * m if grouped else total, m)
        return {"value": mean, "low": low, "high": high, "n": n, "interval": "wilson"}
    error = 1.96 * math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / max(n - 1, 1) / n)
    return {"value": mean, "low": mean - error, "high": mean + error, "n": n, "interval": "normal"}


def _mean(name: str, scores: Sequence[float], clusters: Sequence[str] | None) -> Metric:
    if clusters is None or not name.startswith(PREFIX):
        return summarize(scores, clusters)
    low, high, interval = pass_interval(scores, clusters, TAIL)
    mean = math.fsum(scores) / len(scores)
    return {"value": mean, "low": low, "high": high, "n": len(scores), "interval": interval}


def _clusters(items: Sequence[Item]) -> list[str]:
    return [item["cluster"] or item["item"] for item in items]


def _own(items: Sequence[Item], metric: CorpusMetric) -> list[float]:
    return each_of(metric.figure, [item["counts"][metric.counts] for item in items])


def together(items: Sequence[Item], metric: CorpusMetric) -> Metric:
    """A figure of all items and its 95 % interval, over clusters where items share them."""
    counts = [item["counts"][metric.counts] for item in items]
    low, high, interval = corpus_interval(metric.figure, counts, _clusters(items), TAIL)
    return {
        "value": value_of(metric.figure, counts),
        "low": low,
        "high": high,
        "n": len(items),
        "interval": interval,
        "figure": metric.figure,
        "counts": metric.counts,
    }
