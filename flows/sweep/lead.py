"""How far the best trial is ahead of the others, by the arithmetic of a gate on the same validation rows.

The best of many scores is above what it is worth: it was chosen for it. The bounds here say how much of its
lead may be the rows' chance, with the risk divided by the number of others (Bonferroni), so that all of them
hold together; what the settings are worth is what the test split says.
"""

from __future__ import annotations

from collections.abc import Iterable

from flows.gates.evidence import Evidence, load_evidence
from flows.gates.policy import TaskRule
from flows.gates.rules import judge_rule
from flows.gates.soundness import Expected
from flows.sweep.outcome import Difference, Lead, SweepOutcome, Trial
from flows.sweep.target import Target
from registry import Artifact, Registry
from registry.errors import RegistryError

RISK = 0.05
"""One-sided, as of a gate's rule that names none."""


def lead(registry: Registry, outcome: SweepOutcome, target: Target) -> Lead | None:
    """Of the best trial; None where none was measured."""
    ranked = outcome.whole
    if not ranked:
        return None
    best = ranked[0]
    others = _distinct(ranked[1:], best)
    ours = _evidence(registry, best.evaluation, best.adapter)
    share = RISK / max(1, len(others))
    ahead = {
        trial.number: _difference(ours, _evidence(registry, trial.evaluation, trial.adapter), target, share)
        for trial in others
    }
    base = _evidence(registry, outcome.untuned_evaluation, outcome.base)
    return Lead(ahead, _difference(ours, base, target, RISK))


def _distinct(trials: Iterable[Trial], best: Trial) -> list[Trial]:
    """One trial for each adapter; none for the best one's."""
    seen = {best.adapter.id if best.adapter else None}
    found = []
    for trial in trials:
        if trial.adapter is not None and trial.adapter.id not in seen:
            seen.add(trial.adapter.id)
            found.append(trial)
    return found


def _evidence(registry: Registry, evaluation: Artifact | None, subject: Artifact | None) -> Evidence:
    """The evaluation as a gate reads it; what keeps it from being read is a problem in it."""
    assert evaluation is not None
    assert subject is not None
    files = {name: entry.sha256 for name, entry in evaluation.manifest.files.items()}
    try:
        path = registry.view(evaluation.id)
    except RegistryError as error:
        why = f"evaluation {evaluation.id[:12]} cannot be read: {error}"
        return Evidence(artifact_id=evaluation.id, digest="none", subject=subject.id, problems=(why,))
    return load_evidence(path, evaluation.id, Expected(subject=subject.id, files=files))


def _difference(ours: Evidence, theirs: Evidence, target: Target, alpha: float) -> Difference:
    task, metric = target.task.name, target.metric
    binary = all(_is_binary(evidence, task, metric) for evidence in (ours, theirs))
    rule = TaskRule(
        task=task,
        metric=metric,
        role="improve",
        against="live",
        scores="binary" if binary else "real",
        trust_judge=True,  # that a judge is wrong is the final gate's business, on rows that people labelled
    )
    result = judge_rule(rule, ours, theirs, 1, alpha, choosing=True)
    if result.verdict == "invalid":
        return Difference(None, alpha=alpha, binary=binary, why=result.sentence)
    shown = result.verdict == "pass"
    return Difference(result.effect, result.low, result.high, alpha, result.n, binary, shown)


def _is_binary(evidence: Evidence, task: str, metric: str) -> bool:
    found = evidence.tasks.get(task)
    if found is None or metric in found.together:
        return False
    return set(found.scores.get(metric, {}).values()) <= {0.0, 1.0}
