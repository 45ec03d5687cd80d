"""Fold an adapter into the 16-bit or the NF4 weights: whichever held-out data say is better."""

from __future__ import annotations

from flows.evaluation_plan import EvaluationPlan
from flows.run.step import Run
from registry import Artifact
from stages.config.merge import MergeConfig


def merge(
    run: Run, config: MergeConfig, rungs: EvaluationPlan, base: Artifact, adapter: Artifact, dataset: Artifact
) -> tuple[Artifact, Artifact | None]:
    """The merged model, and the evaluation that chose it (none where the recipe forces the fold).

    With `auto` both folds are made and compared on the validation split; the evidence, the figures of both
    and the reason are an evaluation of either, in the registry.
    """
    if len(config.candidates) == 1:
        return run.step("merge", config, "merge", base=base, adapter=adapter), None
    folds = {
        candidate.base: run.step(
            "merge", candidate, f"merge into {candidate.base}", base=base, adapter=adapter
        )
        for candidate in config.candidates
    }
    evidence = run.step(
        "evaluate", rungs.merge_base, "choose the merge",
        model=folds["16bit"], rival=folds["nf4"], base=base, reference_adapter=adapter, dataset=dataset,
    )  # fmt: skip
    return folds[evidence.manifest.metrics["merge_base"]["chosen"]], evidence
