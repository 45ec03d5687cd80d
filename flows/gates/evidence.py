"""Evidence for a gate: one evaluation as it was logged, with every reason not to believe it.

Reads what the evaluate stage wrote (`results.json`, `samples_*.jsonl`); needs no torch and no lm-eval.
A broken file does not raise: it becomes a problem that the gate answers with `invalid`, so that a
missing or damaged evaluation can never let anything through.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import Field

from flows.gates.policy import FiniteRecord
from flows.gates.soundness import (
    READING_CHECKS,
    TASK_CHECKS,
    Expected,
    Log,
    Reading,
    corpus_metrics,
    counts_of,
    is_number,
)
from registry.evaluation_results import (
    GOOD,
    RESULTS,
    FidelityResult,
    ScoredResult,
    is_fidelity,
    parse_results,
    refuse_constant,
)
from stages.statistics.corpus import Figure, each_of


class Together(FiniteRecord):
    """A figure of all items together, and what each item adds to it."""

    figure: Figure
    counts: dict[str, tuple[float, ...]] = Field(description="item → its counts")


TIE = 0.5
"""What two equal answers score as a pair, whoever judges."""


class Scale(FiniteRecord):
    """What a judge's scores can be. `others`: of pairs, item → digest of the answer compared with."""

    lowest: float
    highest: float
    pairwise: bool
    others: dict[str, str] = Field(default_factory=dict)

    @property
    def span(self) -> float:
        return self.highest - self.lowest


class TaskEvidence(FiniteRecord):
    """The logged items of one task: `scores[metric][item]`, the item being a sha256, never a position.

    Of a figure of all items together (`together`), `scores` has each item's own.
    """

    setting: dict[str, Any] = Field(description="what has to be equal: config, few-shot, limit")
    prompts: dict[str, str] = Field(description="item → sha256 of the prompt the model saw")
    scores: dict[str, dict[str, float]]
    together: dict[str, Together] = Field(default_factory=dict, description="metric → its figure and counts")
    asked: dict[str, str] = Field(default_factory=dict, description="item → its question, no template")
    clusters: dict[str, str] = Field(default_factory=dict, description="item → cluster, where items have one")
    places: dict[str, int] = Field(default_factory=dict, description="item → its place in the split")
    answers: dict[str, str] = Field(default_factory=dict, description="item → digest of the answer's text")
    scales: dict[str, Scale] = Field(default_factory=dict, description="metric → scale, where a judge scored")
    labels: dict[str, dict[str, float]] = Field(
        default_factory=dict, description="metric that a judge scored → item → what people say on its scale"
    )
    good: dict[str, bool] = Field(default_factory=dict, description="item → whether it is called good")
    parts: dict[str, dict[str, str]] = Field(
        default_factory=dict,
        description="item → field → value: of its expected answer, where that is JSON, and of columns",
    )
    split: str | None = Field(default=None, description="of a dataset's rows the part that was asked")

    def of(self, part: str) -> TaskEvidence:
        """The items of a slice, `FIELD=VALUE`."""
        name, _, value = part.partition("=")
        kept = {item for item, fields in self.parts.items() if fields.get(name) == value}

        def some(known: Mapping[str, Any]) -> dict[str, Any]:
            return {item: what for item, what in known.items() if item in kept}

        names = ("prompts", "asked", "clusters", "places", "answers", "good", "parts")
        found: dict[str, Any] = {name: some(getattr(self, name)) for name in names}
        found |= {name: {m: some(v) for m, v in getattr(self, name).items()} for name in ("scores", "labels")}
        found["together"] = {
            metric: figure.model_copy(update={"counts": some(figure.counts)})
            for metric, figure in self.together.items()
        }
        return self.model_copy(update=found)


class Fidelity(FiniteRecord):
    """How near the measured model is to a reference: metric → value, low, high, n."""

    reference: str | None = Field(description="id of the artifact that was compared with")
    finite: bool
    metrics: dict[str, dict[str, float]]


class Evidence(FiniteRecord):
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


def load_evidence(path: Path, artifact_id: str, expected: Expected | None = None) -> Evidence:
    """Read the evaluation in `path`. Never raises for what is in it; see `Evidence.problems`."""
    try:
        reading = _read(path, artifact_id, expected or Expected())
        problems = [reason for check in READING_CHECKS.values() for reason in check(reading)]
        for log in reading.logs:
            reasons = (reason for check in TASK_CHECKS.values() for reason in check(log))
            problems += [f"task {log.name}: {reason}" for reason in reasons]
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
            if is_number(score):
                scores.setdefault(metric, {})[row["item"]] = float(score)
    together = {name: _together(log, name) for name in corpus_metrics(log.result)}
    for name, metric in together.items():
        own = each_of(metric.figure, list(metric.counts.values())) if metric.counts else []
        scores[name] = dict(zip(metric.counts, own, strict=True))
    return TaskEvidence(
        together=together,
        setting={
            "config_digest": log.result["config_digest"],
            "fewshot": log.result["fewshot"],
            "limit": log.result["limit"],
        },
        prompts={row["item"]: row["prompt_hash"] for row in log.rows},
        scores=scores,
        asked={row["item"]: row["asked"] for row in log.rows if isinstance(row.get("asked"), str)},
        clusters=_clusters(log),
        places={row["item"]: row["document"] for row in log.rows if type(row.get("document")) is int},
        answers={
            row["item"]: text_digest(row["answer"]) for row in log.rows if isinstance(row.get("answer"), str)
        },
        scales=_scales(log),
        good=_good(log),
        parts={row["item"]: fields for row in log.rows if (fields := _parts(row))},
        split=log.result.get("config", {}).get("split"),
    )


def _parts(row: Mapping[str, Any]) -> dict[str, str]:
    """Field → value of a row's expected answer, and of the columns that its dataset keeps, which go first."""
    slices = row.get("slices")
    return {**_fields(row.get("target")), **(slices if isinstance(slices, dict) else {})}


def _fields(target: Any) -> dict[str, str]:
    """The plain values of an expected answer that is a JSON object, each as JSON, a text as it is."""
    try:
        found = json.loads(target) if isinstance(target, str) and target.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return {}
    plain = {k: v for k, v in found.items() if v is None or isinstance(v, str | int | float)} if found else {}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in plain.items()}


def _together(log: Log, metric: str) -> Together:
    figure, key = corpus_metrics(log.result)[metric]
    counts = {row["item"]: counts_of(row, key, figure) for row in log.rows}
    return Together(figure=figure, counts={item: found for item, found in counts.items() if found})


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


def text_digest(text: str) -> str:
    """sha256 of an answer, white space at both ends aside: by it a label finds its answer."""
    return hashlib.sha256(text.strip().encode(errors="surrogatepass")).hexdigest()


def _scales(log: Log) -> dict[str, Scale]:
    """The scale of each metric that a judge scored, as the task's settings say."""
    found = {}
    for metric in log.result.get("config", {}).get("metrics") or ():
        if isinstance(metric, dict) and metric.get("kind") == "judge":
            name, levels = str(metric["name"]), int(metric["levels"])
            low, high = (0.0, 1.0) if levels == 2 else (1.0, float(levels))
            pairwise = metric["compare"] == "pairwise"
            others = _compared_with(log, name) if pairwise else {}
            found[name] = Scale(lowest=low, highest=high, pairwise=pairwise, others=others)
    return found


def _clusters(log: Log) -> dict[str, str]:
    """Item → cluster. Of answers by prompt only those to one prompt have it noted: the others are alone."""
    noted = {row["item"]: row["cluster"] for row in log.rows if isinstance(row.get("cluster"), str)}
    by_prompt = log.result.get("config", {}).get("kind") in ("preference", "labelled")
    return {row["item"]: row["prompt_hash"] for row in log.rows} if noted and by_prompt else noted


def _good(log: Log) -> dict[str, bool]:
    labelled = log.result.get("config", {}).get("kind") == "labelled"
    return {row["item"]: row.get("target") == GOOD for row in log.rows} if labelled else {}


def _compared_with(log: Log, metric: str) -> dict[str, str]:
    notes = {row["item"]: (row.get("judged") or {}).get(metric) or {} for row in log.rows}
    return {
        item: text_digest(note["other"]) for item, note in notes.items() if isinstance(note.get("other"), str)
    }
