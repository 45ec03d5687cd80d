"""The whole product, in the order in which it happens: data → adapter → merged → quantized → gate →
channel → endpoint, with a measurement at every step. Or: → adapter → gate → channel, for many tenants.

A step asks the registry first; only what it does not know yet is done.
"""

from __future__ import annotations

from pathlib import Path

from flows.candidate import Candidate, measure
from flows.deployment import deploy
from flows.evaluation_plan import EvaluationPlan
from flows.gates.judged.labels import read_labels
from flows.held_out import previous_dataset
from flows.merge_choice import choose_merge
from flows.outcome import RunOutcome
from flows.promote import judge, promote, try_out
from flows.recipe import Recipe
from flows.run.step import Run
from flows.training import train, train_before
from flows.unmerged import measure_live, measure_unmerged
from registry import Artifact
from stages.quantization import QuantizeConfig, method_of


def lifecycle(recipe: Recipe, run: Run, outcome: RunOutcome) -> None:
    """One run. `outcome` fills as it goes: a run that failed half-way is reported too."""
    base = outcome.base = run.step("resolve", recipe.base, "resolve base")
    previous = previous_dataset(run.registry, recipe)
    data = outcome.dataset = run.step("prepare", recipe.prepare, "prepare data", base=base, **previous)
    sources = {"base": base, "dataset": data}

    # Before anything is trained: what the base can do, quantized as it will be trained on. On tasks that have
    # items of their own it is one measurement for all who share the base, whatever their data.
    plan = EvaluationPlan(recipe)
    asked = {"dataset": data} if recipe.evaluate.reads_dataset else {}
    untuned = outcome.add(measure(run, plan.untuned, base, model=base, **asked))

    start = train_before(run, recipe.train, **sources)
    if start is not None:  # training on preferences goes on from it
        outcome.add(measure(run, plan.started, start, model=base, adapter=start, **sources))
    adapter = outcome.adapter = train(run, recipe.train, start, **sources)
    before = plan.against_start(start)
    tuned = outcome.add(measure(run, plan.tuned, adapter, model=base, adapter=adapter, **before, **sources))

    # One model for engines that know no adapters, and what is quantized below.
    model, outcome.merge_choice = choose_merge(run, recipe.merge, plan, adapter, **sources)
    compared = {"model": model, "reference_adapter": adapter, **sources}
    merged = outcome.add(measure(run, plan.merged(model), model, **compared))

    for config in recipe.quantize:
        outcome.add(_quantize(run, plan, config, model, **sources))

    # The adapter as many tenants are served: beside a base that all share.
    if recipe.adapter is not None:
        outcome.resident, unmerged = measure_unmerged(run, plan, recipe.adapter, adapter, **sources)
        outcome.add(unmerged)

    if recipe.promote is not None:
        candidate = outcome.named(recipe.promote.candidate)
        parent = tuned if candidate.form == "apart" else merged
        _promote(recipe, run, outcome, plan, candidate, untuned, parent)
    if recipe.deploy is not None and outcome.channel is not None and outcome.promoted is not None:
        channel = outcome.channel.name
        outcome.endpoint = deploy(run, recipe.deploy, channel, outcome.promoted, **sources)


def _quantize(
    run: Run,
    plan: EvaluationPlan,
    config: QuantizeConfig,
    merged: Artifact,
    base: Artifact,
    dataset: Artifact,
) -> Candidate:
    """A file of the merged model, measured in the engine that serves it."""
    calibration = {"dataset": dataset} if method_of(config).calibrates else {}
    quantized = run.step(
        "quantize", config, f"quantize {config.label}", "quantized", model=merged, **calibration
    )
    compared = {"model": quantized, "reference": merged, "base": base, "dataset": dataset}
    return measure(run, plan.quantized(config), quantized, **compared)


def _promote(
    recipe: Recipe,
    run: Run,
    outcome: RunOutcome,
    plan: EvaluationPlan,
    candidate: Candidate,
    untuned: Candidate,
    parent: Candidate,
) -> None:
    """Move the channel to the candidate if the gate lets it pass, or begin the policy's canary."""
    assert recipe.gate is not None
    assert recipe.promote is not None
    assert outcome.dataset is not None
    channel, sources = recipe.promote.channel, {"base": untuned.model, "dataset": outcome.dataset}
    labels = read_labels(Path(recipe.promote.labels)) if recipe.promote.labels else None
    while outcome.channel is None:  # again where somebody else moved the channel in between
        seen = run.registry.channels.get(channel)
        live = measure_live(run, plan, candidate, seen, **sources) if seen is not None else None
        verdict = outcome.verdict = judge(run, recipe.gate, channel, candidate, untuned, parent, live, labels)
        if not verdict.passed:
            return
        if recipe.gate.canary is not None and seen is not None and seen.artifact_id != candidate.model.id:
            outcome.channel = try_out(run, candidate, verdict, recipe.gate, seen)
            if outcome.channel is not None:
                return  # live traffic decides
            continue
        outcome.channel = promote(run, channel, candidate, verdict, seen)
    outcome.promoted = candidate
