"""The whole product, in the order in which it happens: data → adapter → merged → quantized → gate →
channel → endpoint, with a measurement at every step. Or: → adapter → gate → channel, for many tenants.

A step asks the registry first; only what it does not know yet is done.
"""

from __future__ import annotations

from flows.deployment import deploy
from flows.evaluation_plan import EvaluationPlan
from flows.merge_choice import merge
from flows.outcome import Outcome
from flows.promote import Candidate, judge, promote
from flows.recipe import Recipe
from flows.run.step import Run
from flows.unmerged import apart, measure_live
from stages.quantization import method_of


def lifecycle(recipe: Recipe, run: Run, outcome: Outcome) -> None:
    """One run. `outcome` fills as it goes: a run that failed half-way is reported too."""
    base = outcome.base = run.step("resolve", recipe.base, "resolve base")
    data = outcome.dataset = run.step("prepare", recipe.prepare, "prepare data", base=base)

    rungs = EvaluationPlan(recipe.evaluate, recipe.ladder, recipe.train.nf4)
    before = run.step("evaluate", rungs.base, "evaluate base NF4", model=base, dataset=data)
    outcome.measured("base NF4", base, before)

    adapter = outcome.adapter = run.step("train", recipe.train, "train adapter", base=base, dataset=data)
    known = {"base": base, "dataset": data}
    tuned = run.step("evaluate", rungs.tuned, "evaluate tuned NF4", model=base, adapter=adapter, **known)
    outcome.measured("tuned NF4 + adapter", adapter, tuned)

    merged, outcome.merge_choice = merge(run, recipe.merge, rungs, base, adapter, data)
    parent = run.step(
        "evaluate", rungs.merged(merged), "evaluate merged", model=merged, reference_adapter=adapter, **known
    )
    outcome.measured(f"merged {recipe.merge.dtype}", merged, parent)
    offers = {"merged": Candidate(merged, parent)}

    for config in recipe.quantize:
        calibration = {"dataset": data} if method_of(config).calibrates else {}
        quantized = run.step("quantize", config, f"quantize {config.label}", model=merged, **calibration)
        compared = {"model": quantized, "reference": merged, **known}
        score = run.step("evaluate", rungs.quantized, f"evaluate {config.label}", **compared)
        outcome.measured(config.label, quantized, score)
        offers[config.label] = Candidate(quantized, score)

    if recipe.adapter is not None:
        outcome.resident, offers["adapter"] = apart(run, recipe.adapter, rungs, adapter, **known)
        outcome.measured(recipe.adapter.label, offers["adapter"].model, offers["adapter"].evaluation)

    references = {
        "base": Candidate(base, before),
        "tuned": Candidate(adapter, tuned),
        "merged": offers["merged"],
    }
    _serve(recipe, run, outcome, rungs, offers, references)


def _serve(
    recipe: Recipe,
    run: Run,
    outcome: Outcome,
    rungs: EvaluationPlan,
    offers: dict[str, Candidate],
    references: dict[str, Candidate],
) -> None:
    if recipe.gate is None or recipe.promote is None:
        return
    offer, channel = offers[recipe.promote.candidate], recipe.promote.channel
    assert outcome.base is not None
    assert outcome.dataset is not None
    known = {"base": outcome.base, "dataset": outcome.dataset}
    while outcome.channel is None:  # again where somebody else moved the channel in between
        seen = run.registry.channels.get(channel)
        verdict = outcome.verdict = judge(
            run, recipe.gate, channel, offer, seen,
            baseline=references["base"],
            parent=references["tuned" if offer is offers.get("adapter") else "merged"],
            measure=lambda live: measure_live(run, rungs, live, **known),
        )  # fmt: skip
        if not verdict.passed:
            return
        outcome.channel = promote(run, channel, offer, verdict, seen)
    if recipe.deploy is not None:
        outcome.endpoint = deploy(run, recipe.deploy, channel, offer, outcome.base, outcome.dataset)
