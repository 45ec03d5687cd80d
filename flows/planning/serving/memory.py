"""What the engines of a `serve.yaml` will need, and whether this machine has it: from metadata, no weights.

Upper ends of what to expect. SmolLM2-135M with 16 adapters on llama.cpp: 480 MB foretold, 390 measured
(before anybody asked for embeddings); on vLLM's CPU build 3.3 GB and 3.2.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from flows.formatting import size
from flows.planning.machine import Machine
from registry import Artifact, Registry
from registry.compat.contract import holds_tune
from serving.gateway.config import EngineSection
from serving.vllm.launch import CPU_CACHE_BYTES
from stages.errors import InvalidInput
from stages.model_shape import ModelShape, describe_base, describe_gguf

LLAMA_RUNTIME = 80_000_000
BATCH_TOKENS, STATES_TOKENS = 512, 64
"""As `serving.llama_cpp.model` has them, which would load llama.cpp."""
VLLM_RUNTIME = 1_850_000_000
"""Its three processes without a model, on a CPU."""
CELLS = 256
"""llama.cpp rounds a context up to so many tokens."""
GPU_SHARE = 0.9
"""Of a GPU's memory, what vLLM takes."""
USUAL_RANK = 16


@dataclass(frozen=True)
class EngineEstimate:
    """What one section's engines need together; `memory_bytes` None where the model's size is not known.

    `device` gpu: of one GPU's memory.
    """

    engine: str
    memory_bytes: int | None
    note: str
    device: Literal["cpu", "gpu"] = "cpu"


def estimate_engines(
    registry: Registry, sections: Sequence[EngineSection], machine: Machine
) -> list[EngineEstimate]:
    """One entry per section. Raises RegistryError for a model that the registry does not have."""
    state = registry.serving_state()
    guests = {id_: registry.get(id_) for id_ in {c.artifact_id for c in state.channels.values()}}
    adapters = [guest for guest in guests.values() if guest.manifest.kind == "adapter"]
    estimates = []
    for number, section in enumerate(sections):
        followed = state.channels.get(section.model)
        held = registry.get(followed.artifact_id if followed else section.model)
        estimate = _estimate(registry, f"{number}: {section.engine}", section, held, adapters, machine)
        if followed:
            estimate = replace(estimate, note=f"{estimate.note}; twice while {followed.name} moves")
        estimates.append(estimate)
    return estimates


def shortfalls(estimates: Iterable[EngineEstimate], machine: Machine) -> list[str]:
    """What this machine lacks, one sentence each; empty where all fits, for all that is known."""
    estimates = [estimate for estimate in estimates if estimate.memory_bytes is not None]
    missing = []
    needed = sum(estimate.memory_bytes or 0 for estimate in estimates if estimate.device == "cpu")
    if needed > machine.memory_available:
        missing.append(
            f"the engines need about {size(needed)} of memory together, this machine has "
            f"{size(machine.memory_available)} free: fewer replicas, a shorter context_length, less in "
            "parallel, fewer adapters, or a smaller file"
        )
    largest = max((held for _, held in machine.cuda), default=0)
    for estimate in estimates:
        if estimate.device == "gpu" and (estimate.memory_bytes or 0) > GPU_SHARE * largest:
            missing.append(
                f"engine {estimate.engine} needs about {size(estimate.memory_bytes or 0)} of GPU memory, of "
                "which it "
                f"takes {GPU_SHARE:.0%} of {size(largest)}: a quantized base, or fewer adapters"
            )
    return missing


def _estimate(
    registry: Registry,
    name: str,
    section: EngineSection,
    held: Artifact,
    adapters: list[Artifact],
    machine: Machine,
) -> EngineEstimate:
    weights = weight_bytes(held)
    gpu = section.engine == "vllm" and bool(machine.cuda)
    device: Literal["cpu", "gpu"] = "gpu" if gpu else "cpu"
    try:
        shape = _shape(registry, held)
    except InvalidInput as error:
        return EngineEstimate(name, None, f"not known: {error}", device)
    slots = 0 if holds_tune(held.manifest) else section.adapters
    each, note = engine_bytes(section, shape, weights, slots, _slot(section, shape, adapters), gpu)
    if section.replicas > 1:
        note += f"; {section.replicas} times {size(each)}"
    return EngineEstimate(name, each * section.replicas, note, device)


def engine_bytes(
    section: EngineSection, shape: ModelShape, weights: int, slots: int, slot: int, gpu: bool
) -> tuple[int, str]:
    """Bytes of one engine with room for `slots` adapters of `slot` bytes each, and what they are made of."""
    beside, states = slots * slot, 0
    cache = 4 * shape.layers * shape.kv_heads * shape.head_size * section.parallel
    if section.engine == "llama.cpp":
        cache *= -(-section.context_length // CELLS) * CELLS
        work = LLAMA_RUNTIME + BATCH_TOKENS * 4 * (shape.vocabulary + shape.hidden + shape.intermediate)
        states = STATES_TOKENS * 4 * (shape.vocabulary + shape.hidden)
    elif gpu:
        cache, work = cache * section.context_length, 0  # the rest of its share gets more of the cache
    else:
        gigabytes = os.environ.get("VLLM_CPU_KVCACHE_SPACE", "")
        cache, work = int(float(gigabytes) * 2**30) if gigabytes else CPU_CACHE_BYTES, VLLM_RUNTIME
    parts = [f"{size(weights)} weights", f"{size(cache)} keys and values"]
    parts += [f"{size(states)} once embeddings are asked for"] if states else []
    parts.append(f"{size(beside)} for {slots} adapters")
    return weights + cache + work + states + beside, ", ".join(parts)


def weight_bytes(held: Artifact) -> int:
    """Bytes of an artifact's weights."""
    return sum(file.size for path, file in held.manifest.files.items() if path.endswith(_WEIGHTS))


def adapter_bytes(shape: ModelShape, rank: int) -> int:
    """Of an adapter of that rank on all linear layers of the blocks, in 16 bits."""
    return rank * shape.layers * sum(sum(widths) for widths in shape.linear_shapes().values()) * 2


_WEIGHTS = (".gguf", ".safetensors")


def _shape(registry: Registry, held: Artifact) -> ModelShape:
    folder = registry.view(held.id)
    if "model.gguf" in held.manifest.files:
        return describe_gguf(folder / "model.gguf")
    return describe_base(f"path:{folder}")


def _slot(section: EngineSection, shape: ModelShape, adapters: list[Artifact]) -> int:
    """Bytes of one slot: on llama.cpp the largest adapter that a channel points to, on vLLM what `max_rank`
    takes; where there is none yet, one of rank 16 on all linear layers in 16 bits."""
    rank = section.max_rank if section.engine == "vllm" else USUAL_RANK
    usual = adapter_bytes(shape, rank)
    if section.engine == "vllm":
        return usual
    files = [
        adapter.manifest.files["model.gguf"].size
        for adapter in adapters
        if "model.gguf" in adapter.manifest.files
    ]
    return max(files, default=usual)
