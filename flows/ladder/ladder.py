"""The ladder: is each form of the model still what it was made from, and where not, why?

Reads what the evaluations say; measures nothing itself. The rungs stand in the order in which they were made,
and the first one with a finding is where quality breaks: whatever comes after it was made from broken goods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.evaluation_plan import AGAINST_BASE, AGAINST_PARENT, AGAINST_START, AGAINST_UNMERGED
from flows.ladder.checks import CHECKS
from flows.ladder.model import FailedCheck, Figure, Ladder, Rung, RungEvidence
from flows.run.stage_row import Form
from registry.artifacts import Manifest
from registry.evaluation_results import RESULTS, is_fidelity, read_items, read_results
from stages.quantization.distance import quantization_name

PARENTS: Mapping[Form, Form] = {
    "started": "base",
    "tuned": "base",
    "merged": "tuned",
    "quantized": "merged",
    "apart": "tuned",
}


def read_ladder(evidence: Sequence[RungEvidence], merge_base: Mapping[str, Any] | None = None) -> Ladder:
    """Judge the rungs in their order; `merge_base`: the figures of the evaluation that chose the merge."""
    rungs: list[Rung] = []
    rungs_by_form: dict[Form, RungEvidence] = {}
    for place, form_evidence in enumerate(evidence):
        parent = _parent(form_evidence, evidence[:place], rungs_by_form)
        rungs.append(_rung(form_evidence, parent, rungs_by_form))
        rungs_by_form.setdefault(form_evidence.kind, form_evidence)
    broken = next((rung for rung in rungs if rung.findings), None)
    first = broken.findings[0] if broken else None
    return Ladder(
        rungs=tuple(rungs),
        breaks_at=broken.label if broken else None,
        cause=first.cause if first else None,
        next=first.next if first else "",
        merge_base={key: merge_base[key] for key in ("chosen", "by", "reason")} if merge_base else None,
    )


def _parent(
    evidence: RungEvidence, before: Sequence[RungEvidence], seen: Mapping[Form, RungEvidence]
) -> RungEvidence | None:
    if evidence.kind == "endpoint":
        return next((served for served in before if served.artifact_id == evidence.artifact_id), None)
    return seen.get(PARENTS[evidence.kind]) if evidence.kind in PARENTS else None


def _rung(evidence: RungEvidence, parent: RungEvidence | None, seen: Mapping[Form, RungEvidence]) -> Rung:
    score, metric = _score(evidence)
    rung = Rung(
        label=evidence.label,
        kind=evidence.kind,
        artifact_id=evidence.artifact_id,
        parent=parent.label if parent else None,
        figures=_figures(evidence, AGAINST_PARENT),
        to_base=_figures(evidence, AGAINST_BASE),
        fold=_figures(evidence, AGAINST_UNMERGED),
        to_start=_figures(evidence, AGAINST_START),
        score=score,
        metric=metric,
        **(_paired(evidence, parent) if parent else {}),
    )
    findings = []
    for name, check in CHECKS.items():
        if (finding := check(rung, evidence, seen)) is not None:
            findings.append(FailedCheck(check=name, **finding._asdict()))
    return rung.model_copy(update={"findings": tuple(findings)})


def _figures(evidence: RungEvidence, task: str) -> dict[str, Figure]:
    metrics = evidence.metrics.get("fidelity", {}).get(task, {}).get("metrics", {})
    return {name: _figure(figure) for name, figure in metrics.items()}


def _figure(figure: Mapping[str, Any]) -> Figure:
    return Figure(value=figure["value"], low=figure["low"], high=figure["high"], n=figure["n"])


def _score(evidence: RungEvidence) -> tuple[Figure | None, str | None]:
    """That of the first task, and what it is called."""
    for task, scores in evidence.metrics.get("tasks", {}).items():
        # a manifest sorts its keys, so the first metric is not the main one
        first = "exact_match" if "exact_match" in scores else next(iter(scores))
        metric = evidence.metrics.get("main", {}).get(task, first)
        return _figure(scores[metric]), f"{task} {metric}"
    return None, None


def _paired(evidence: RungEvidence, parent: RungEvidence) -> dict[str, int]:
    """Generated answers of the same items: right only here, right only before, and changed in any way."""
    if evidence.probe is not None:
        return {
            "changed": evidence.probe["asked"] - evidence.probe["same"],
            "compared": evidence.probe["asked"],
        }
    shared = evidence.answers.keys() & parent.answers.keys()
    if not shared:
        return {}
    pairs = [(evidence.answers[item], parent.answers[item]) for item in shared]
    return {
        "gained": sum(ours[1] > theirs[1] for ours, theirs in pairs),
        "lost": sum(ours[1] < theirs[1] for ours, theirs in pairs),
        "changed": sum(ours[0] != theirs[0] for ours, theirs in pairs),
        "compared": len(pairs),
    }


def logged_answers(evaluation: Path) -> dict[str, tuple[str, float]]:
    """item → (answer, score) of the first task with answers in an evaluation's directory; empty without."""
    tasks = read_results(evaluation)["tasks"].values() if (evaluation / RESULTS).is_file() else ()
    answered = (t for t in tasks if not is_fidelity(t) and t.get("config", {}).get("kind") != "perplexity")
    first = next(answered, None)
    items = read_items(evaluation, first) if first else []
    return {item["item"]: (item["answer"].strip(), float(item["score"])) for item in items}


def describe_quant(manifest: Manifest) -> str:
    """`gptq-4`, `Q4_K_M` or `none`: the type that a limit is given for."""
    return quantization_name(manifest.quant)
