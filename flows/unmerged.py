"""The adapter unmerged, as an engine loads it for one tenant beside the base that all share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flows.candidate import Candidate, measure
from flows.errors import Usage
from flows.evaluation_plan import EvaluationPlan, Measurement
from flows.exchange.loading import rank_of
from flows.gates.ancestry import ancestry, host_in, host_of, is_gguf_adapter, promoted_over
from flows.gates.other_base import differ
from flows.recipe import AdapterConfig
from flows.run.step import Run
from registry import Artifact
from registry.artifacts import BaseReference, Manifest
from registry.channels.channels import Channel
from registry.compat import contract
from registry.compat.model import Use, pair
from serving.engine.capabilities import VLLM_RANKS, limits

EngineName = Literal["llama.cpp", "vllm"]


@dataclass(frozen=True)
class ServingBase:
    """What an engine has to hold for the adapter, and the name it has in the registry."""

    artifact: Artifact
    name: str
    engine: EngineName
    max_rank: int | None = None
    """Where the adapter's is above what the engine takes unless told otherwise."""


def measure_unmerged(
    run: Run,
    plan: EvaluationPlan,
    config: AdapterConfig,
    adapter: Artifact,
    base: Artifact,
    dataset: Artifact,
) -> tuple[ServingBase, Candidate]:
    """The base as all tenants share it, and the adapter, measured on it as served.

    For llama.cpp the base's GGUF and a GGUF adapter; for vLLM both as they are, once it is known that vLLM
    applies this adapter. The base gets a name, by which an engine can be told to hold it, and which keeps its
    files. Raises Incompatible.
    """
    served, subject, max_rank = base, adapter, None
    measurement = plan.unmerged(config)
    if config.on_16bit:
        max_rank = rank_for_vllm(base.manifest, adapter.manifest)
    else:
        form = measurement.form
        served = run.step("quantize", config.resident, f"quantize base {config.base}", form, model=base)
        label = f"quantize adapter {config.own.type}"
        subject = run.step("quantize", config.own, label, form, model=adapter, base=base)
    parents = {"model": served, "adapter": subject, "base": base, "dataset": dataset}
    candidate = measure(run, measurement, subject, **parents, reference_adapter=adapter)
    assert base.manifest.base is not None
    name = resident_name(base.manifest.base, config.base)
    version = run.registry.name(served.id, name)
    engine: EngineName = "vllm" if config.on_16bit else "llama.cpp"
    return ServingBase(served, f"{name}@{version}", engine, max_rank), candidate


def rank_for_vllm(base: Manifest, adapter: Manifest) -> int | None:
    """The `max_rank` that vLLM has to be started for, None where its own is enough.

    Raises Incompatible for an adapter that vLLM cannot apply to this base.
    """
    use = Use(limits("vllm", VLLM_RANKS[-1]), measured=True)
    contract.require(pair(base, adapter, use), "vLLM cannot serve this adapter over the 16-bit base")
    needed = rank_of(adapter) or 1
    return next(rank for rank in VLLM_RANKS if rank >= needed) if needed > limits("vllm").max_rank else None


def resident_name(base: BaseReference, form: str) -> str:
    """From the base's source and its form: `llama-3.1-8b-instruct-q8_0`, `…-16bit`; an artifact's name."""
    scheme, _, path = base.source.partition(":")
    last = path.rpartition("/")[2].removesuffix(".gguf")
    text = f"{scheme} {last}" if scheme == "pico" else last
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in text.lower())
    return f"{name.strip('._-')[:80] or 'base'}-{form.lower()}"


def measure_live(
    run: Run, plan: EvaluationPlan, candidate: Candidate, channel: Channel, base: Artifact, dataset: Artifact
) -> Candidate:
    """What the channel serves now, measured on this recipe's tasks; an adapter on what it is served over, a
    GGUF of its base or the base in 16 bits. Where it is of another base than the recipe's, that one reads
    the rows; where it is the candidate, what counts is over what each is served. Raises `Usage` for a GGUF
    adapter that was never measured on a GGUF."""
    live = run.registry.get(channel.artifact_id)
    served = None
    if live.id == candidate.model.id:
        served = promoted_over(run.registry, channel.name, live)
        if served is None or served.id == host_in(candidate.evaluation, live):
            return candidate
    if differ(base, live):
        base = ancestry(run.registry, live).base or base
    sources = {"base": base, "dataset": dataset}
    if live.manifest.kind != "adapter":
        measurement = Measurement("quantized", "evaluate live", "live", plan.stored)
        return measure(run, measurement, live, model=live, **sources)
    served = served or host_of(run.registry, live) or (None if is_gguf_adapter(live) else base)
    if served is None:
        raise Usage(
            f"the channel serves the GGUF adapter {live.id[:12]}, which was never measured on a GGUF of its "
            "base, so nothing can be compared with it: roll the channel back, or move it with a waiver"
        )
    measurement = Measurement("apart", "evaluate live", "live", plan.stored)
    return measure(run, measurement, live, model=served, adapter=live, **sources)
