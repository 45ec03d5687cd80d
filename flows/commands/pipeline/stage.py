"""`tuneline prepare`, `merge`, `quantize` and `evaluate` on plain directories."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Iterator, Mapping
from typing import Any

from flows.commands.reply import Reply
from flows.formatting import as_typed, duration, plain, size
from flows.report.rows import Score

Figures = Iterator[tuple[str, str]]
NEXT = {
    "prepare": "give it as --dataset to `tuneline evaluate` or `tuneline quantize`",
    "merge": "`tuneline quantize --model {out} --out NEW --set method=gguf --set type=Q4_K_M`",
    "quantize": "`tuneline evaluate --model {out} --base BASE --dataset DATA --out NEW`",
    "evaluate": "`tuneline gate POLICY --candidate {out} --baseline OTHER` compares it with another one",
}


def stage(arguments: argparse.Namespace) -> Reply:
    """One stage on plain directories: what was made, where, and its main figures."""
    from flows.run.standalone_stage import run_plain

    roles = ("base", "model", "adapter", "dataset")
    parents = {role: path for role in roles if (path := getattr(arguments, role, None)) is not None}
    started = time.monotonic()
    facts = run_plain(arguments.stage, parents, arguments.set, arguments.out)
    took = duration(time.monotonic() - started)

    def show() -> None:
        print(plain(f"{arguments.stage}: {facts['kind']} in {arguments.out}, made in {took}"))
        for name, text in figures(facts):
            print(plain(f"  {name:<13} {text}"))
        print(as_typed(f"  {'next':<13} {NEXT[arguments.stage].format(out=shlex.quote(str(arguments.out)))}"))

    return Reply({"out": str(arguments.out), "facts": facts}, show)


def figures(facts: Mapping[str, Any]) -> Figures:
    """The main figures of a result, each with its name, for people."""
    metrics = facts["metrics"]
    if facts["kind"] == "dataset":
        yield from _of_data(metrics)
    elif facts["kind"] == "evaluation":
        yield from _of_scores(metrics)
    else:
        yield from _of_weights(metrics, facts.get("quant") or {})


def _of_data(metrics: Mapping[str, Any]) -> Figures:
    rows = metrics["rows"]
    yield "rows", f"{rows['read']:,} read, {rows['accepted']:,} accepted, {rows['rejected']:,} rejected"
    for name, title in (
        ("rejected", "rejected"),
        ("dropped", "left out"),
        ("unused_fields", "unused fields"),
    ):
        if counts := {key: count for key, count in metrics[name].items() if count}:
            words = (f"{key.replace('_', ' ')} {count:,}" for key, count in counts.items())
            yield title, ", ".join(words)
    for split, figures in metrics["splits"].items():
        rows = "1 row" if figures["rows"] == 1 else f"{figures['rows']:,} rows"
        yield split, f"{rows}, {figures['tokens']:,} tokens"


def _of_weights(metrics: Mapping[str, Any], quant: Mapping[str, Any]) -> Figures:
    effective, requested = quant.get("effective") or {}, quant.get("requested") or {}
    form = [str(requested[key]) for key in ("method", "type", "bits", "dtype") if requested.get(key)]
    yield "form", " ".join(form) or str(quant.get("method"))
    yield "size", f"{size(metrics['bytes'])}, {metrics['parameters'] / 1e6:,.1f} million parameters"
    if (bits := metrics.get("bits_per_weight", effective.get("bits_per_weight"))) is not None:
        yield "bits/weight", f"{bits:.2f}"
    if "tensors_merged" in metrics:
        yield "tensors", f"{metrics['tensors_merged']:,} merged, {metrics['tensors_copied']:,} copied"


def _of_scores(metrics: Mapping[str, Any]) -> Figures:
    for task, scores in metrics["tasks"].items():
        for metric, figures in scores.items():
            score = Score(figures["value"], figures["low"], figures["high"], figures["n"])
            yield task, f"{metric} {score}, n = {figures['n']:,}"
    if metrics.get("bytes") is not None:
        yield "size", size(metrics["bytes"])
    if metrics.get("bits_per_weight") is not None:
        yield "bits/weight", f"{metrics['bits_per_weight']:.2f}"
    if metrics["measured_on"]:
        yield "measured on", f"{metrics['measured_on']}; in brackets: 95% intervals"
