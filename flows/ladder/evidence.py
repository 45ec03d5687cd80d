"""The ladder of a run, from the artifacts that it has made so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flows.ladder.ladder import describe_quant, logged_answers, read_ladder
from flows.ladder.model import Evidence, Kind, Ladder
from flows.outcome import Outcome
from flows.run.stage_row import StageRow
from registry import Artifact, Registry
from registry.artifacts import Kind as ArtifactKind
from stages.quantization import method_that_made

KINDS: Mapping[ArtifactKind, Kind] = {
    "base": "base", "adapter": "tuned", "merged": "merged", "quantized": "quantized",
}  # fmt: skip


def ladder_of(registry: Registry, outcome: Outcome, rows: list[StageRow]) -> Ladder | None:
    """None where nothing was compared: the recipe has no ladder, or the run ended before the first rung."""
    evidence = [*_measured(registry, outcome), *_failed(rows)]
    if not any("fidelity" in one.metrics for one in evidence):
        return None
    chosen = outcome.merge_choice
    return read_ladder(evidence, chosen.manifest.metrics["merge_base"] if chosen else None)


def _measured(registry: Registry, outcome: Outcome) -> Iterator[Evidence]:
    trained_on = _trained_on(outcome.adapter)
    for label, (model, evaluation) in outcome.variants.items():
        quant, method = model.manifest.quant, method_that_made(model.manifest.quant)
        kind, weights = KINDS[model.manifest.kind], model
        as_stored = evaluation.manifest.config.get("nf4") is None
        if outcome.resident is not None and kind == "tuned" and as_stored:
            kind, weights = "apart", outcome.resident.artifact
        yield Evidence(
            label=label,
            kind=kind,
            artifact_id=model.id,
            metrics=evaluation.manifest.metrics,
            answers=logged_answers(registry.view(evaluation.id)),
            quant=describe_quant(weights.manifest),
            lose_less=method.lose_less(quant) if method is not None and quant is not None else "",
            calibrated_on=quant.calibration_dataset if quant else None,
            trained_on=trained_on,
        )
    if (endpoint := outcome.endpoint) is not None and endpoint.config.get("probe"):
        probe = endpoint.config["probe"]
        yield Evidence(f"endpoint on {endpoint.engine}", "endpoint", endpoint.artifact_id, probe=probe)


def _trained_on(adapter: Artifact | None) -> str | None:
    parents = adapter.manifest.parents if adapter else ()
    return next((parent.id for parent in parents if parent.relation == "trained_on"), None)


def _failed(rows: list[StageRow]) -> Iterator[Evidence]:
    for row in rows:
        verb, _, what = row.label.partition(" ")
        if row.state != "failed":
            continue
        if row.stage in ("evaluate", "merge", "quantize", "deploy"):
            yield Evidence(row.label, _kind(row.stage, verb, what), stopped=row.note or "the stage failed")


def _kind(stage: str, verb: str, what: str) -> Kind:
    if what.startswith(("adapter ", "base ")) and what != "base NF4":
        return "apart"
    if stage == "evaluate":
        known: dict[str, Kind] = {"base NF4": "base", "tuned NF4": "tuned", "merged": "merged"}
        return "merged" if verb == "choose" else known.get(what, "quantized")
    kinds: dict[str, Kind] = {"merge": "merged", "quantize": "quantized", "deploy": "endpoint"}
    return kinds[stage]
