"""Channels as runs of recipes leave them, with the manifests and memo keys of real runs and tiny files."""

from __future__ import annotations

import os
import secrets

from flows.recipe import Recipe, load
from flows.run.find_or_make import find_or_make, stage_inputs
from flows.run.runs import RECIPE, begin
from registry import Artifact, Registry, Waiver
from registry.artifacts import QuantSpec
from registry.catalog import ResourceUse
from registry.drafts import Draft
from registry.leases import NO_WAIT
from stages.contract import Facts, StageConfig
from tests.flows.lineages import USE, base_reference, sha256

WAIVER = Waiver("made for a test", "tests")
POLICY = {
    "tasks": [{"task": "routing", "metric": "exact_match", "role": "keep", "against": "live", "margin": 0.2}]
}
SETTLED = ("train.nf4.compute_dtype=float32", "evaluate.compute_dtype=float32")


def recipe_of(channel: str, *changes: str, name: str = "pico-tenant") -> Recipe:
    """A shipped recipe for the channel, which leaves nothing about the arithmetic to the machine."""
    return load(name, [f"promote.channel={channel}", "deploy=null", *SETTLED, *changes])


def made(registry: Registry, stage: str, config: StageConfig, facts: Facts, **parents: Artifact) -> Artifact:
    """What the stage made of the parents, under its memo key; the files are a few bytes."""

    def make(draft: Draft) -> tuple[Facts, ResourceUse]:
        name = "model.gguf" if facts.quant is not None and facts.quant.is_gguf else "model.safetensors"
        (draft.path / name).write_bytes(f"{stage} {config.model_dump_json()}".encode())
        return facts, USE

    return find_or_make(registry, stage_inputs(stage, config, parents), make, NO_WAIT)[0]


def served(registry: Registry, recipe: Recipe, *, known: bool = True) -> Artifact:
    """What the recipe's channel serves after a run of it: a GGUF adapter, or the first quantized file.

    `known`: the run left its recipe in this home.
    """
    none = QuantSpec(method="none")
    reference = base_reference(
        source=recipe.base.source,
        revision=sha256(recipe.base.source),
        weights_digest=sha256(recipe.base.source),
    )
    base = made(registry, "resolve", recipe.base, Facts(kind="base", base=reference, quant=none))
    dataset = made(registry, "prepare", recipe.prepare, Facts(kind="dataset"), base=base)
    nf4 = recipe.train.nf4.model_dump(mode="json")
    trained = Facts(kind="adapter", base=reference, quant=QuantSpec(method="bnb", requested=nf4))
    sources = {"base": base, "dataset": dataset}
    for training in recipe.train.trainings:
        adapter = made(registry, "train", training, trained, **sources)
        sources["adapter"] = adapter
    assert recipe.promote is not None
    if recipe.promote.candidate == "adapter":
        assert recipe.adapter is not None
        gguf = QuantSpec(method="gguf", requested=recipe.adapter.own.model_dump())
        live = made(
            registry, "quantize", recipe.adapter.own,
            Facts(kind="adapter", base=reference, quant=gguf), model=adapter, base=base,
        )  # fmt: skip
    else:
        merged = made(
            registry, "merge", recipe.merge.candidates[0],
            Facts(kind="merged", base=reference, quant=QuantSpec(method="none", merge_base="16bit")),
            base=base, adapter=adapter,
        )  # fmt: skip
        (config,) = recipe.quantize
        quant = QuantSpec(method=config.method, requested=config.model_dump(), merge_base="16bit")
        live = made(
            registry, "quantize", config, Facts(kind="quantized", base=reference, quant=quant), model=merged
        )
    name = recipe.promote.channel
    registry.channels.set_policy(name, POLICY, "tests", "for a test")
    registry.channels.move(name, live.id, 0, waiver=WAIVER)
    if known:
        left_behind(registry, recipe)
    return live


def left_behind(registry: Registry, recipe: Recipe) -> None:
    """A run of the recipe in this home, as far as it is looked for later."""
    folder = registry.home / "runs" / f"run-{secrets.token_hex(4)}"
    os.close(begin(folder, recipe.name, USE.started))
    (folder / RECIPE).write_text(recipe.model_dump_json(), "utf-8")
