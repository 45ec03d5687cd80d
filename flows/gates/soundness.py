"""What keeps an evaluation from being believed: each check yields its reasons, in words."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from registry.evaluation_results import EvaluationResults, FidelityResult, ScoredResult, is_fidelity
from stages.statistics.corpus import COUNTS, Figure, value_of
from stages.statistics.pass_at import pass_at_k

Rows = list[dict[str, Any]]
_PASS = re.compile(r"pass@(\d+)\[(.+)\]")


@dataclass(frozen=True)
class RequiredNf4:
    """The NF4 setting that a model has to have been measured with; None: as it is stored."""

    setting: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Expected:
    """What the registry knows of an evaluation before it is read."""

    subject: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    """Name → sha256, of every file."""
    nf4: RequiredNf4 | None = None
    """How the base has to have been quantized; None: not known."""


@dataclass
class Log:
    """One task as it was logged: what `results.json` says of it, and its rows."""

    name: str
    result: ScoredResult | FidelityResult
    raw: bytes | None = None
    rows: Rows = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def file(self) -> str:
        return str(self.result["samples"])


@dataclass
class Reading:
    """An evaluation before it is believed."""

    artifact_id: str
    results: EvaluationResults
    digests: dict[str, str]
    logs: list[Log]
    expected: Expected


def _present(log: Log) -> Iterator[str]:
    if log.raw is None:
        yield f"the samples {log.file} are missing"


def _as_measured(log: Log) -> Iterator[str]:
    if log.raw is not None and hashlib.sha256(log.raw).hexdigest() != log.result["samples_sha256"]:
        yield f"{log.file} is not the file that was measured"


def _not_empty(log: Log) -> Iterator[str]:
    if log.raw is not None and not log.raw.strip():
        yield f"{log.file} is empty"


def _readable(log: Log) -> Iterator[str]:
    yield from log.unreadable


def _whole(log: Log) -> Iterator[str]:
    if log.raw is not None and len(log.rows) + len(log.unreadable) != log.result["n"]:
        rows = len(log.rows) + len(log.unreadable)
        yield f"{log.result['n']} items were measured, {rows} are in {log.file}"


def _distinct(log: Log) -> Iterator[str]:
    seen: set[str] = set()
    for row in log.rows:
        if row["item"] in seen:
            yield f"item {row['item'][:12]} appears twice"
        seen.add(row["item"])


def _finite(log: Log) -> Iterator[str]:
    for row in log.rows:
        for metric, score in row["scores"].items():
            if not is_number(score):
                yield f"item {row['item'][:12]}: {metric} is {score!r}, not a finite number"


def _every_metric(log: Log) -> Iterator[str]:
    metrics = {metric for row in log.rows for metric in row["scores"]}
    if any(row["scores"].keys() != metrics for row in log.rows) and not is_fidelity(log.result):
        yield "some items have no score for some metric"


def corpus_metrics(result: ScoredResult | FidelityResult) -> dict[str, tuple[Figure, str]]:
    """Metric → figure and name of the counts, of what is computed from all items together."""
    if is_fidelity(result):
        return {}
    return {
        name: (metric["figure"], str(metric.get("counts")))
        for name, metric in result.get("metrics", {}).items()
        if metric.get("figure") in COUNTS
    }


def counts_of(row: Mapping[str, Any], key: str, figure: Figure) -> tuple[float, ...] | None:
    """What an item adds to a figure; None where that is not as many numbers of at least 0 as it needs."""
    counts = (row.get("counts") or {}).get(key)
    if not isinstance(counts, list) or len(counts) != COUNTS[figure]:
        return None
    return tuple(map(float, counts)) if all(is_number(n) and n >= 0 for n in counts) else None


def _every_count(log: Log) -> Iterator[str]:
    for metric, (figure, key) in corpus_metrics(log.result).items():
        missing = sum(counts_of(row, key, figure) is None for row in log.rows)
        if missing:
            yield f"{missing} items lack the {COUNTS[figure]} counts that {metric} is computed from"


def _summary_agrees(log: Log) -> Iterator[str]:
    if is_fidelity(log.result) or log.raw is None:
        return
    together = corpus_metrics(log.result)
    for metric, summary in log.result.get("metrics", {}).items():
        if metric in together:
            figure, key = together[metric]
            counts = [found for row in log.rows if (found := counts_of(row, key, figure)) is not None]
            mean = value_of(figure, counts) if counts else math.nan
        else:
            scores = [row["scores"][metric] for row in log.rows if is_number(row["scores"].get(metric))]
            mean = math.fsum(scores) / len(scores) if scores else math.nan
        if not math.isclose(mean, summary["value"], rel_tol=1e-9, abs_tol=1e-12):
            yield f"results.json says {metric} is {summary['value']}, its samples say {mean:.6g}"


def _drawn_agree(log: Log) -> Iterator[str]:
    for row in log.rows:
        drawn = row.get("drawn") or ()
        for name, score in row["scores"].items():
            if (found := _PASS.fullmatch(name)) is None or not is_number(score):
                continue
            right = [one["scores"].get(found[2]) == 1 for one in drawn]
            k, what = int(found[1]), f"item {row['item'][:12]}: {name}"
            if not 1 <= k <= len(right):
                yield f"{what} is computed from {k} or more drawn answers, {len(right)} are recorded"
            elif not math.isclose(pass_at_k(len(right), sum(right), k), score, abs_tol=1e-12):
                yield f"{what} is {score}, its {len(right)} drawn answers say otherwise"
        if len({one["seed"] for one in drawn}) != len(drawn):
            yield f"item {row['item'][:12]}: two answers were drawn with one seed"


TASK_CHECKS: dict[str, Callable[[Log], Iterable[str]]] = {
    "samples are there": _present,
    "samples are those measured": _as_measured,
    "samples are not empty": _not_empty,
    "rows can be read": _readable,
    "no row is missing": _whole,
    "no item is twice": _distinct,
    "scores are finite": _finite,
    "every item has every metric": _every_metric,
    "every item has the counts of figures of all": _every_count,
    "the summary agrees with the samples": _summary_agrees,
    "pass@k is that of the drawn answers": _drawn_agree,
}
"""What makes one task's log unfit to be believed. Each yields its reasons."""


def _holds_tasks(reading: Reading) -> Iterator[str]:
    if not reading.logs:
        yield "the evaluation holds no task"


def _of_that_subject(reading: Reading) -> Iterator[str]:
    subject, wanted = reading.results["model"]["subject"], reading.expected.subject
    if wanted is not None and subject != wanted:
        yield f"is an evaluation of {str(subject)[:12]}, not of {wanted[:12]}"


def _as_registered(reading: Reading) -> Iterator[str]:
    for name, digest in reading.digests.items():
        wanted = reading.expected.files.get(name)
        if reading.expected.files and digest != wanted:
            yield f"{name} has sha256 {digest[:12]}, the registry recorded {(wanted or 'no such file')[:12]}"


def nf4_values(nf4: Mapping[str, Any] | None) -> dict[str, object] | None:
    """The settings that decide the weights' values: all but the arithmetic."""
    return None if nf4 is None else {key: value for key, value in nf4.items() if key != "compute_dtype"}


def _nf4_as_trained(reading: Reading) -> Iterator[str]:
    nf4, required = reading.results["model"].get("nf4"), reading.expected.nf4
    if required is not None and nf4_values(nf4) != nf4_values(required.setting):
        setting = required.setting
        belongs = f"the adapter belongs to {setting}" if setting else "it is served without NF4"
        yield f"was measured with the NF4 setting {nf4}, but {belongs}"


READING_CHECKS: dict[str, Callable[[Reading], Iterable[str]]] = {
    "there are tasks": _holds_tasks,
    "it is about that artifact": _of_that_subject,
    "files are those registered": _as_registered,
    "NF4 is as trained": _nf4_as_trained,
}
"""What makes a whole evaluation unfit to be believed."""


def is_number(score: object) -> bool:
    """Whether it is a finite number, and no truth value."""
    return not isinstance(score, bool) and isinstance(score, int | float) and math.isfinite(score)
