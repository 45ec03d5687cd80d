"""The ladder: is each form of the model still what it was made from, and where not, why?

Reads what the evaluations say; measures nothing itself. The rungs stand in the order in which they were made,
and the first one with a finding is where quality breaks: whatever comes after it was made from broken goods.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from flows.evaluation_plan import BASE, FOLD, PARENT
from flows.gates.evidence import Record
from flows.ladder.checks import CHECKS
from registry.artifacts import Manifest
from stages.rounding import quantization_name

Kind = Literal["base", "tuned", "merged", "quantized", "apart", "endpoint"]
PARENTS: Mapping[Kind, Kind] = {
    "tuned": "base", "merged": "tuned", "quantized": "merged", "apart": "tuned",
}  # fmt: skip


@dataclass(frozen=True)
class Evidence:
    """What is known of one rung. `metrics`: of its evaluation; `answers`: item → (answer, score) as logged.

    `stopped`: the message of the stage that refused or failed on this rung; it has no metrics then.
    """

    label: str
    kind: Kind
    artifact_id: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    answers: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    quant: str = "none"
    """`gptq-4`, a GGUF type such as `Q4_K_M` (of the base, for an adapter apart), or `none`."""
    calibrated_on: str | None = None
    trained_on: str | None = None
    probe: Mapping[str, Any] | None = None
    stopped: str | None = None
    fallbacks: int = 0
    """Modules that GPTQ could only round."""


class Figure(Record):
    """A value with its 95 % interval over `n` chats or items."""

    value: float
    low: float
    high: float
    n: int


class Finding(Record):
    """A check that failed on a rung; `cause`: only what was looked at; `next`: what to do or to look at."""

    check: str
    words: str
    cause: str
    next: str = ""


class Rung(Record):
    """One form of the model against the one before. `figures`: metric → value, against `parent`.

    `to_base`: a file against the quantized base; `fold`: a merge, or an adapter apart, against the same sum
    unmerged, in the base's own weights.
    """

    label: str
    kind: Kind
    artifact_id: str | None
    parent: str | None
    figures: dict[str, Figure] = Field(default_factory=dict)
    to_base: dict[str, Figure] = Field(default_factory=dict)
    fold: dict[str, Figure] = Field(default_factory=dict)
    score: Figure | None = None
    metric: str | None = None
    gained: int | None = None
    lost: int | None = None
    changed: int | None = None
    compared: int | None = None
    findings: tuple[Finding, ...] = ()


class Ladder(Record):
    """`breaks_at`: the first rung with a finding; `cause`: what was seen there; `next`: what to do."""

    rungs: tuple[Rung, ...]
    breaks_at: str | None = None
    cause: str | None = None
    next: str = ""
    merge_base: dict[str, Any] | None = None

    @property
    def sentence(self) -> str:
        """The ladder in one sentence, and what to do next in another."""
        if self.breaks_at is not None:
            follows = f". Next: {self.next}" if self.next else ""
            return f"Quality breaks at {self.breaks_at}: {self.cause}{follows}"
        compared = sum(bool(rung.figures) for rung in self.rungs)
        return f"Each of the {compared} compared forms is what it was made from."


def read_ladder(evidence: Sequence[Evidence], merge_base: Mapping[str, Any] | None = None) -> Ladder:
    """Judge the rungs in their order; `merge_base`: the figures of the evaluation that chose the merge."""
    rungs: list[Rung] = []
    seen: dict[Kind, Evidence] = {}
    for place, one in enumerate(evidence):
        parent = _parent(one, evidence[:place], seen)
        rungs.append(_rung(one, parent, seen))
        seen.setdefault(one.kind, one)
    broken = next((rung for rung in rungs if rung.findings), None)
    first = broken.findings[0] if broken else None
    return Ladder(
        rungs=tuple(rungs),
        breaks_at=broken.label if broken else None,
        cause=first.cause if first else None,
        next=first.next if first else "",
        merge_base={key: merge_base[key] for key in ("chosen", "by", "reason")} if merge_base else None,
    )


def _parent(one: Evidence, before: Sequence[Evidence], seen: Mapping[Kind, Evidence]) -> Evidence | None:
    if one.kind == "endpoint":
        return next((served for served in before if served.artifact_id == one.artifact_id), None)
    return seen.get(PARENTS[one.kind]) if one.kind in PARENTS else None


def _rung(one: Evidence, parent: Evidence | None, seen: Mapping[Kind, Evidence]) -> Rung:
    rung = Rung(
        label=one.label,
        kind=one.kind,
        artifact_id=one.artifact_id,
        parent=parent.label if parent else None,
        figures=_figures(one, PARENT),
        to_base=_figures(one, BASE),
        fold=_figures(one, FOLD),
        **_score(one),
        **(_paired(one, parent) if parent else {}),
    )
    found = []
    for name, check in CHECKS.items():
        if (said := check(rung, one, seen)) is not None:
            found.append(Finding(check=name, **said._asdict()))
    return rung.model_copy(update={"findings": tuple(found)})


def _figures(one: Evidence, task: str) -> dict[str, Figure]:
    metrics = one.metrics.get("fidelity", {}).get(task, {}).get("metrics", {})
    return {name: _figure(found) for name, found in metrics.items()}


def _figure(found: Mapping[str, Any]) -> Figure:
    return Figure(value=found["value"], low=found["low"], high=found["high"], n=found["n"])


def _score(one: Evidence) -> dict[str, Any]:
    task = next(iter(one.metrics.get("tasks", {}).items()), None)
    if task is None:
        return {}
    # a manifest sorts its keys, so the first metric is not the main one
    metric = "exact_match" if "exact_match" in task[1] else next(iter(task[1]))
    found = task[1][metric]
    return {"score": _figure(found), "metric": f"{task[0]} {metric}"}


def _paired(one: Evidence, parent: Evidence) -> dict[str, int]:
    """Generated answers of the same items: right only here, right only before, and changed in any way."""
    if one.probe is not None:
        return {"changed": one.probe["asked"] - one.probe["same"], "compared": one.probe["asked"]}
    shared = one.answers.keys() & parent.answers.keys()
    if not shared:
        return {}
    pairs = [(one.answers[item], parent.answers[item]) for item in shared]
    return {
        "gained": sum(ours[1] > theirs[1] for ours, theirs in pairs),
        "lost": sum(ours[1] < theirs[1] for ours, theirs in pairs),
        "changed": sum(ours[0] != theirs[0] for ours, theirs in pairs),
        "compared": len(pairs),
    }


def logged_answers(evaluation: Path) -> dict[str, tuple[str, float]]:
    """item → (answer, score) of the first task in an evaluation's directory; empty where none was logged."""
    file = evaluation / "results.json"
    tasks = json.loads(file.read_text("utf-8"))["tasks"].values() if file.is_file() else ()
    first = next((task for task in tasks if task.get("kind") != "fidelity"), None)
    if first is None:
        return {}
    lines = (evaluation / first["samples"]).read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return {row["item"]: (row["answer"].strip(), float(row["score"])) for row in rows}


def describe_quant(manifest: Manifest) -> str:
    """`gptq-4`, `Q4_K_M` or `none`: the type that a limit is given for."""
    return quantization_name(manifest.quant)
