"""The adapter apart from its base: what an engine loads for one tenant beside the base that all share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flows.errors import Usage
from flows.evaluation_plan import EvaluationPlan
from flows.exchange.loading import rank_of
from flows.gates.ancestry import host_of, is_gguf_adapter
from flows.promote import Candidate
from flows.recipe import AdapterConfig
from flows.run.step import Run
from registry import Artifact
from registry.artifacts import BaseReference, Manifest
from registry.compat import contract
from registry.compat.model import Use, pair
from serving.engine.capabilities import VLLM_RANKS, limits


@dataclass(frozen=True)
class ServingBase:
    """What an engine has to hold for the adapter, and the name it has in the registry."""

    artifact: Artifact
    name: str
    engine: Literal["llama.cpp", "vllm"]
    max_rank: int | None = None
    """Where the adapter's is above what the engine takes unless told otherwise."""


def apart(
    run: Run,
    config: AdapterConfig,
    rungs: EvaluationPlan,
    adapter: Artifact,
    base: Artifact,
    dataset: Artifact,
) -> tuple[ServingBase, Candidate]:
    """The base as all tenants share it, and the adapter, measured on it as served.

    For llama.cpp the base's GGUF and a GGUF adapter; for vLLM both as they are, once it is known that vLLM
    applies this adapter. The base gets a name, by which an engine can be told to hold it, and which keeps its
    files. Raises Incompatible.
    """
    held, made, max_rank = base, adapter, None
    if config.on_16bit:
        max_rank = rank_for_vllm(base.manifest, adapter.manifest)
    else:
        held = run.step("quantize", config.resident, f"quantize base {config.base}", model=base)
        made = run.step(
            "quantize", config.own, f"quantize adapter {config.own.type}", model=adapter, base=base
        )
    score = run.step(
        "evaluate", rungs.apart_16bit if config.on_16bit else rungs.apart, f"evaluate {config.label}",
        model=held, adapter=made, base=base, dataset=dataset, reference_adapter=adapter,
    )  # fmt: skip
    assert base.manifest.base is not None
    name = resident_name(base.manifest.base, config.base)
    version = run.registry.name(held.id, name)
    resident = ServingBase(held, f"{name}@{version}", "vllm" if config.on_16bit else "llama.cpp", max_rank)
    return resident, Candidate(made, score)


def rank_for_vllm(base: Manifest, adapter: Manifest) -> int | None:
    """The `max_rank` that vLLM has to be started for, None where its own is enough.

    Raises Incompatible for an adapter that vLLM cannot apply to this base.
    """
    use = Use(limits("vllm", VLLM_RANKS[-1]), measured=True)
    contract.require(pair(base, adapter, use), "vLLM cannot serve this adapter over the 16-bit base")
    rank = rank_of(adapter) or 1
    return next(one for one in VLLM_RANKS if one >= rank) if rank > limits("vllm").max_rank else None


def resident_name(base: BaseReference, form: str) -> str:
    """From the base's source and its form: `llama-3.1-8b-instruct-q8_0`, `…-16bit`; an artifact's name."""
    scheme, _, place = base.source.partition(":")
    last = place.rpartition("/")[2].removesuffix(".gguf")
    words = f"{scheme} {last}" if scheme == "pico" else last
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in words.lower())
    return f"{kept.strip('._-')[:80] or 'base'}-{form.lower()}"


def measure_live(
    run: Run, rungs: EvaluationPlan, live: Artifact, base: Artifact, dataset: Artifact
) -> Artifact:
    """The evaluation of what the channel serves now, on this recipe's tasks; an adapter on what it is served
    over, a GGUF of its base or the base in 16 bits. Raises `Usage` for a GGUF adapter that was never measured
    on a GGUF."""
    known = {"base": base, "dataset": dataset}
    if live.manifest.kind != "adapter":
        return run.step("evaluate", rungs.stored, "evaluate live", model=live, **known)
    held = host_of(run.registry, live)
    if held is None and not is_gguf_adapter(live):
        held = base
    if held is None:
        raise Usage(
            f"the channel serves the GGUF adapter {live.id[:12]}, which was never measured on a GGUF of its "
            "base, so nothing can be compared with it: roll the channel back, or move it with a waiver"
        )
    return run.step("evaluate", rungs.stored, "evaluate live", model=held, adapter=live, **known)
