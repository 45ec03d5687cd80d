"""The adapter apart from its base: what an engine loads for one tenant beside the base that all share."""

from __future__ import annotations

from dataclasses import dataclass

from flows.errors import Usage
from flows.ladder.rungs import Rungs
from flows.promote import Offer
from flows.recipe import AdapterConfig
from flows.step import Run
from registry import Artifact, Registry
from registry.artifacts import BaseReference


@dataclass(frozen=True)
class Resident:
    """The base's GGUF that an engine has to hold for the adapter, and the name it has in the registry."""

    artifact: Artifact
    name: str


def apart(
    run: Run, config: AdapterConfig, rungs: Rungs, adapter: Artifact, base: Artifact, dataset: Artifact
) -> tuple[Resident, Offer]:
    """The base's GGUF, which all tenants of the base share, and the GGUF adapter, measured on it as served.

    The base's GGUF gets a name, by which an engine can be told to hold it, and which keeps its files.
    """
    held = run.step("quantize", config.resident, f"quantize base {config.base}", model=base)
    made = run.step("quantize", config.own, f"quantize adapter {config.type}", model=adapter, base=base)
    score = run.step(
        "evaluate", rungs.apart, f"evaluate {config.label}", model=held, adapter=made, base=base,
        dataset=dataset, reference_adapter=adapter,
    )  # fmt: skip
    assert base.manifest.base is not None
    name = resident_name(base.manifest.base, config.base)
    version = run.registry.name(held.id, name)
    return Resident(held, f"{name}@{version}"), Offer(made, score)


def resident_name(base: BaseReference, gguf_type: str) -> str:
    """From the base's source and the type: `llama-3.1-8b-instruct-q8_0`; an artifact's name."""
    scheme, _, place = base.source.partition(":")
    last = place.rpartition("/")[2].removesuffix(".gguf")
    words = f"{scheme} {last}" if scheme == "pico" else last
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in words.lower())
    return f"{kept.strip('._-')[:80] or 'base'}-{gguf_type.lower()}"


def measure_live(run: Run, rungs: Rungs, live: Artifact, base: Artifact, dataset: Artifact) -> Artifact:
    """The evaluation of what the channel serves now, on this recipe's tasks; an adapter on what it is served
    over. Raises `Usage` for a GGUF adapter that was never measured on a GGUF."""
    known = {"base": base, "dataset": dataset}
    if live.manifest.kind != "adapter":
        return run.step("evaluate", rungs.stored, "evaluate live", model=live, **known)
    if live.manifest.quant is None or live.manifest.quant.method != "gguf":
        return run.step("evaluate", rungs.base, "evaluate live", model=base, adapter=live, **known)
    held = host_of(run.registry, live)
    if held is None:
        raise Usage(
            f"the channel serves the GGUF adapter {live.id[:12]}, which was never measured on a GGUF of its "
            "base, so nothing can be compared with it: roll the channel back, or move it with a waiver"
        )
    return run.step("evaluate", rungs.stored, "evaluate live", model=held, adapter=live, **known)


def host_of(registry: Registry, adapter: Artifact) -> Artifact | None:
    """The quantized base that a GGUF adapter was measured on last."""
    for evaluation in reversed(registry.evaluations(adapter.id)):
        for parent in evaluation.manifest.parents:
            if parent.relation == "evaluation_of" and parent.id != adapter.id:
                return registry.get(parent.id)
    return None
