"""Evidence for a gate: one evaluation as it was logged, with every reason not to believe it.

Reads what the evaluate stage wrote (`results.json`, `samples_*.jsonl`); needs no torch and no lm-eval.
A broken file does not raise: it becomes a problem that the gate answers with `invalid`, so that a
missing or damaged evaluation can never let anything through.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pydantic import Field

from flows.gates.policy import Record
from registry.evaluation_results import (
    RESULTS,
    EvaluationResults,
    FidelityResult,
    ScoredResult,
    is_fidelity,
    parse_results,
    refuse_constant,
)

Rows = list[dict[str, Any]]


class TaskEvidence(Record):
    """The logged items of one task: `scores[metric][item]`, the item being a sha256, never a position."""

    setting: dict[str, Any] = Field(description="what has to be equal: config, few-shot, limit")
    prompts: dict[str, str] = Field(description="item → sha256 of the prompt the model saw")
    scores: dict[str, dict[str, float]]
    asked: dict[str, str] = Field(default_factory=dict, description="item → its question, no template")
    clusters: dict[str, str] = Field(default_factory=dict, description="item → cluster, where items have one")


class Fidelity(Record):
    """How near the measured model is to a reference: metric → value, low, high, n."""

    reference: str | None = Field(description="id of the artifact that was compared with")
    finite: bool
    metrics: dict[str, dict[str, float]]


class Evidence(Record):
    """One evaluation. `problems` not empty: no verdict but `invalid` can rest on it."""

    artifact_id: str
    digest: str = Field(description="sha256 over the files that were read")
    subject: str | None = Field(default=None, description="id of the artifact that was measured")
    setting: dict[str, Any] = Field(default_factory=dict, description="harness, seed, chat template")
    called: str | None = Field(default=None, description="what a sentence calls it, where that was looked at")
    computed_with: str | None = Field(default=None, description="engine and types, in words")
    nf4: dict[str, Any] | None = Field(
        default=None, description="the NF4 setting that the base was quantized with, if it was"
    )
    bytes: int | None = None
    bits_per_weight: float | None = None
    tasks: dict[str, TaskEvidence] = Field(default_factory=dict)
    fidelity: dict[str, Fidelity] = Field(default_factory=dict)
    problems: tuple[str, ...] = ()


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
        found = len(log.rows) + len(log.unreadable)
        yield f"{log.result['n']} items were measured, {found} are in {log.file}"


def _distinct(log: Log) -> Iterator[str]:
    seen: set[str] = set()
    for row in log.rows:
        if row["item"] in seen:
            yield f"item {row['item'][:12]} is there twice"
        seen.add(row["item"])


def _finite(log: Log) -> Iterator[str]:
    for row in log.rows:
        for metric, score in row["scores"].items():
            if not _is_number(score):
                yield f"item {row['item'][:12]}: {metric} is {score!r}, not a finite number"


def _every_metric(log: Log) -> Iterator[str]:
    metrics = {metric for row in log.rows for metric in row["scores"]}
    if any(row["scores"].keys() != metrics for row in log.rows) and not is_fidelity(log.result):
        yield "some items have no score for some metric"


def _summary_agrees(log: Log) -> Iterator[str]:
    if is_fidelity(log.result) or log.raw is None:
        return
    for metric, summary in log.result.get("metrics", {}).items():
        scores = [row["scores"][metric] for row in log.rows if _is_number(row["scores"].get(metric))]
        mean = math.fsum(scores) / len(scores) if scores else math.nan
        if not math.isclose(mean, summary["value"], rel_tol=1e-9, abs_tol=1e-12):
            yield f"results.json says {metric} is {summary['value']}, its samples say {mean:.6g}"


TASK_CHECKS: dict[str, Callable[[Log], Iterable[str]]] = {
    "samples are there": _present,
    "samples are those measured": _as_measured,
    "samples are not empty": _not_empty,
    "rows can be read": _readable,
    "no row is missing": _whole,
    "no item is twice": _distinct,
    "scores are finite": _finite,
    "every item has every metric": _every_metric,
    "the summary agrees with the samples": _summary_agrees,
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
    for name, found in reading.digests.items():
        wanted = reading.expected.files.get(name)
        if reading.expected.files and found != wanted:
            yield f"{name} has sha256 {found[:12]}, the registry recorded {(wanted or 'no such file')[:12]}"


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


def load_evidence(path: Path, artifact_id: str, expected: Expected | None = None) -> Evidence:
    """Read the evaluation in `path`. Never raises for what is in it; see `Evidence.problems`."""
    try:
        reading = _read(path, artifact_id, expected or Expected())
        problems = [reason for check in READING_CHECKS.values() for reason in check(reading)]
        for log in reading.logs:
            found = (reason for check in TASK_CHECKS.values() for reason in check(log))
            problems += [f"task {log.name}: {reason}" for reason in found]
        return _evidence(reading, tuple(problems))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = f"results.json of {artifact_id[:12]} cannot be used ({type(error).__name__}: {error})"
        return Evidence(artifact_id=artifact_id, digest=hashlib.sha256().hexdigest(), problems=(problem,))


def _read(path: Path, artifact_id: str, expected: Expected) -> Reading:
    raw = (path / RESULTS).read_bytes()
    results = parse_results(raw)
    digests = {RESULTS: hashlib.sha256(raw).hexdigest()}
    # the choice of a merge is not a gate's evidence: it lacks keys that are read here, so it is refused
    tasks = cast(dict[str, ScoredResult | FidelityResult], results["tasks"])
    logs = [_read_log(path, name, result) for name, result in tasks.items()]
    digests |= {log.file: hashlib.sha256(log.raw).hexdigest() for log in logs if log.raw is not None}
    return Reading(artifact_id, results, digests, logs, expected)


def _read_log(path: Path, name: str, result: ScoredResult | FidelityResult) -> Log:
    log, file = Log(name, result), path / str(result["samples"])
    if file.parent != path or not file.is_file():
        return log
    log.raw = file.read_bytes()
    for number, line in enumerate(log.raw.splitlines(), start=1):
        try:
            row = json.loads(line, parse_constant=refuse_constant)
            prompt = row.get("prompt_hash") if is_fidelity(log.result) else row["prompt_hash"]
            typed = {"item": str(row["item"]), "scores": dict(row["scores"]), "prompt_hash": str(prompt)}
            log.rows.append({**row, **typed})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            log.unreadable.append(f"{file.name} line {number}: {type(error).__name__}: {error}")
    return log


def _evidence(reading: Reading, problems: tuple[str, ...]) -> Evidence:
    results, model = reading.results, reading.results["model"]
    ordered = json.dumps(reading.digests, sort_keys=True).encode()
    return Evidence(
        artifact_id=reading.artifact_id,
        digest=hashlib.sha256(ordered).hexdigest(),
        subject=model["subject"],
        setting={
            "harness": results["harness"],
            "seed": results["seed"],
            "chat_template": results["chat_template"],
        },
        computed_with=model.get("computed_with"),
        nf4=model.get("nf4"),
        bytes=model["bytes"],
        bits_per_weight=model["bits_per_weight"],
        tasks={log.name: _task(log) for log in reading.logs if not is_fidelity(log.result)},
        fidelity={log.name: _fidelity(result) for log in reading.logs if is_fidelity(result := log.result)},
        problems=problems,
    )


def _task(log: Log) -> TaskEvidence:
    scores: dict[str, dict[str, float]] = {}
    for row in log.rows:
        for metric, score in row["scores"].items():
            if _is_number(score):
                scores.setdefault(metric, {})[row["item"]] = float(score)
    return TaskEvidence(
        setting={
            "config_digest": log.result["config_digest"],
            "fewshot": log.result["fewshot"],
            "limit": log.result["limit"],
        },
        prompts={row["item"]: row["prompt_hash"] for row in log.rows},
        scores=scores,
        asked={row["item"]: row["asked"] for row in log.rows if isinstance(row.get("asked"), str)},
        clusters={row["item"]: row["cluster"] for row in log.rows if isinstance(row.get("cluster"), str)},
    )


def _fidelity(result: FidelityResult) -> Fidelity:
    metrics = {
        name: {
            "value": float(metric["value"]),
            "low": float(metric["low"]),
            "high": float(metric["high"]),
            "n": float(metric["n"]),
        }
        for name, metric in result["metrics"].items()
    }
    reference = (result.get("reference") or {}).get("subject")
    return Fidelity(reference=reference, finite=result["finite"] is True, metrics=metrics)


def _is_number(score: object) -> bool:
    return not isinstance(score, bool) and isinstance(score, int | float) and math.isfinite(score)
