"""The main figures of a result or an artifact, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flows.formatting import size
from flows.report.rows import score_of

Figures = Iterator[tuple[str, str]]


def figures(facts: Mapping[str, Any]) -> Figures:
    """Each with its name, for people; none where others made the artifact and recorded no such figure."""
    metrics = facts["metrics"]
    if facts["kind"] == "dataset":
        yield from _of_data(metrics)
    elif facts["kind"] == "evaluation":
        yield from _of_scores(metrics)
    elif facts["kind"] == "adapter":
        yield from _of_an_adapter(metrics)
    else:
        yield from _of_weights(metrics, facts.get("quant") or {})


def _of_data(metrics: Mapping[str, Any]) -> Figures:
    if rows := metrics.get("rows"):
        yield "rows", f"{rows['read']:,} read, {rows['accepted']:,} accepted, {rows['rejected']:,} rejected"
    for name, title in (
        ("rejected", "rejected"),
        ("dropped", "left out"),
        ("unused_fields", "unused fields"),
    ):
        if counts := {key: count for key, count in metrics.get(name, {}).items() if count}:
            words = (f"{key.replace('_', ' ')} {count:,}" for key, count in counts.items())
            yield title, ", ".join(words)
    for split, figures in metrics.get("splits", {}).items():
        rows = "1 row" if figures["rows"] == 1 else f"{figures['rows']:,} rows"
        yield split, f"{rows}, {figures['tokens']:,} tokens"


def _of_weights(metrics: Mapping[str, Any], quant: Mapping[str, Any]) -> Figures:
    effective, requested = quant.get("effective") or {}, quant.get("requested") or {}
    form = [str(requested[key]) for key in ("method", "type", "bits", "dtype") if requested.get(key)]
    yield "form", " ".join(form) or metrics.get("dtype") or str(quant.get("method"))
    if "parameters" in metrics:
        yield "size", f"{size(metrics['bytes'])}, {metrics['parameters'] / 1e6:,.1f} million parameters"
    if (bits := metrics.get("bits_per_weight", effective.get("bits_per_weight"))) is not None:
        yield "bits/weight", f"{bits:.2f}"
    if "tensors_merged" in metrics:
        yield "tensors", f"{metrics['tensors_merged']:,} merged, {metrics['tensors_copied']:,} copied"


def _of_an_adapter(metrics: Mapping[str, Any]) -> Figures:
    if outline := metrics.get("outline"):
        yield "LoRA", f"rank {outline['rank']}, alpha {outline['alpha']:g}"
    if "steps" in metrics:
        yield "trained", f"{metrics['steps']:,} steps, {metrics['rows']:,} rows, {metrics['tokens']:,} tokens"
    if metrics.get("validation_loss") is not None:
        yield "loss", f"{metrics['validation_loss']:.4g} on {metrics['validation_rows']:,} validation rows"
    if metrics.get("validation_preferred") is not None:
        yield "preferred", f"{metrics['validation_preferred']:.1%} of the validation pairs"


def _of_scores(metrics: Mapping[str, Any]) -> Figures:
    for task, scores in metrics.get("tasks", {}).items():
        for metric, figures in scores.items():
            yield task, f"{metric} {score_of(figures)}, n = {figures['n']:,}"
    if metrics.get("bytes") is not None:
        yield "size", size(metrics["bytes"])
    if metrics.get("bits_per_weight") is not None:
        yield "bits/weight", f"{metrics['bits_per_weight']:.2f}"
    if metrics.get("measured_on"):
        yield "measured on", f"{metrics['measured_on']}; in brackets: 95% intervals"
