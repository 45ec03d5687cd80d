"""The ladder of a run, from the artifacts that it has made so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flows.ladder.ladder import describe_quant, logged_answers, read_ladder
from flows.ladder.model import Ladder, RungEvidence
from flows.outcome import RunOutcome
from flows.run.stage_row import StoppedStep
from registry import Artifact, Registry
from stages.quantization import method_that_made


def ladder_of(registry: Registry, outcome: RunOutcome, stopped: Sequence[StoppedStep]) -> Ladder | None:
    """None where nothing was compared: the recipe has no ladder, or the run ended before the first rung."""
    evidence = [*_measured(registry, outcome)]
    evidence += [RungEvidence(step.label, step.form, stopped=step.message) for step in stopped]
    if not any("fidelity" in rung.metrics for rung in evidence):
        return None
    chosen = outcome.merge_choice
    return read_ladder(evidence, chosen.manifest.metrics["merge_base"] if chosen else None)


def _measured(registry: Registry, outcome: RunOutcome) -> Iterator[RungEvidence]:
    trained_on = _trained_on(outcome.adapter)
    for candidate in outcome.candidates:
        weights, quant = candidate.model, candidate.model.manifest.quant
        method = method_that_made(quant)
        if outcome.resident is not None and candidate.form == "apart":
            weights = outcome.resident.artifact
        yield RungEvidence(
            label=candidate.label,
            kind=candidate.form,
            artifact_id=candidate.model.id,
            metrics=candidate.evaluation.manifest.metrics,
            answers=logged_answers(registry.view(candidate.evaluation.id)),
            quant=describe_quant(weights.manifest),
            lose_less=method.lose_less(quant) if method is not None and quant is not None else "",
            calibrated_on=quant.calibration_dataset if quant else None,
            trained_on=trained_on,
            by_preference=candidate.model.manifest.config.get("method") in ("dpo", "kto", "orpo"),
        )
    if (endpoint := outcome.endpoint) is not None and endpoint.config.get("probe"):
        probe = endpoint.config["probe"]
        yield RungEvidence(f"endpoint on {endpoint.engine}", "endpoint", endpoint.artifact_id, probe=probe)


def _trained_on(adapter: Artifact | None) -> str | None:
    parents = adapter.manifest.parents if adapter else ()
    return next((parent.id for parent in parents if parent.relation == "trained_on"), None)
