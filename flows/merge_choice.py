"""Merge an adapter into the 16-bit or the NF4 weights: whichever held-out data say is better."""

from __future__ import annotations

from flows.evaluation_plan import EvaluationPlan
from flows.run.step import Run
from registry import Artifact
from stages.config.merge import MergeConfig


def choose_merge(
    run: Run, config: MergeConfig, plan: EvaluationPlan, adapter: Artifact, base: Artifact, dataset: Artifact
) -> tuple[Artifact, Artifact | None]:
    """The merged model, and the evaluation that chose it (none where the recipe names the weights).

    With `auto` both merges are made and compared on the validation split; the evidence, the figures of both
    and the reason are an evaluation of either, in the registry.
    """
    if len(config.candidates) == 1:
        return run.step("merge", config, "merge", "merged", base=base, adapter=adapter), None
    merges = {
        candidate.base: run.step(
            "merge", candidate, f"merge into {candidate.base}", "merged", base=base, adapter=adapter
        )
        for candidate in config.candidates
    }
    rivals = {"model": merges["16bit"], "rival": merges["nf4"]}
    sources = {"base": base, "reference_adapter": adapter, "dataset": dataset}
    choice = run.step("evaluate", plan.merge_choice, "choose the merge", "merged", **rivals, **sources)
    return merges[choice.manifest.metrics["merge_base"]["chosen"]], choice
