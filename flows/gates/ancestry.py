"""What a model came from, and over what an adapter was measured, as the registry has it."""

from __future__ import annotations

from dataclasses import dataclass

from registry import Artifact, Registry
from registry.artifacts import MODEL_KINDS
from stages.quantization import method_that_made


@dataclass(frozen=True)
class Ancestry:
    """The artifacts that a model came from, as far as the registry knows them, itself included."""

    model: Artifact
    base: Artifact | None = None
    adapter: Artifact | None = None
    merged: Artifact | None = None
    dataset: Artifact | None = None

    @property
    def parent(self) -> Artifact | None:
        """The merged model; of an adapter, the adapter as trained, which for one that vLLM serves over the
        16-bit base is the same artifact, measured on the NF4 base."""
        return self.adapter if self.model.manifest.kind == "adapter" else self.merged

    @property
    def missing(self) -> list[str]:
        """What a whole lineage has and this one has not."""
        wanted = {"base": self.base, "adapter": self.adapter, "training data": self.dataset}
        return [f"the lineage has no {name}" for name, artifact in wanted.items() if artifact is None]


def is_gguf_adapter(model: Artifact) -> bool:
    """Whether it is an adapter as llama.cpp loads it, made from one that was trained."""
    quant = model.manifest.quant
    return model.manifest.kind == "adapter" and quant is not None and quant.is_gguf


def quant_of(model: Artifact) -> str:
    """`gptq`, a GGUF type, `nf4`, or `none`."""
    quant = model.manifest.quant
    if quant is None or not quant.quantized:
        return "none"
    method = method_that_made(quant)
    return "nf4" if method is None else method.form_of(quant)


def ancestry(registry: Registry, model: Artifact) -> Ancestry:
    """The nearest ancestor of each kind. Raises NotFound."""
    ancestors: dict[str, Artifact] = {} if is_gguf_adapter(model) else {model.manifest.kind: model}
    data: Artifact | None = None
    for edge in registry.lineage(model.id):
        parent = registry.get(edge.parent)
        if edge.relation == "trained_on" and data is None:
            data = parent
        elif parent.manifest.kind in MODEL_KINDS:
            ancestors.setdefault(parent.manifest.kind, parent)
    return Ancestry(model, ancestors.get("base"), ancestors.get("adapter"), ancestors.get("merged"), data)


def as_stored(evaluation: Artifact) -> bool:
    """Whether the weights were measured as they are stored, not quantized to NF4 first."""
    return evaluation.manifest.config.get("nf4") is None


def on_16bit(registry: Registry, adapter: Artifact) -> bool:
    """Whether the adapter was measured over its 16-bit base, as vLLM serves it."""
    return any(as_stored(e) for e in registry.evaluations(adapter.id))


def nf4_only(registry: Registry, model: Artifact) -> str | None:
    """What to say of an adapter for vLLM that was measured on the NF4 base alone; None for anything else."""
    if model.manifest.kind != "adapter" or is_gguf_adapter(model):
        return None
    if not registry.evaluations(model.id) or on_16bit(registry, model):
        return None
    return (
        f"adapter {model.id[:12]} was measured only on the NF4 base that it was trained on; vLLM serves it "
        "over the 16-bit base, which is another model: a recipe with `adapter: {base: 16bit}` measures that"
    )


def host_of(registry: Registry, adapter: Artifact) -> Artifact | None:
    """What an adapter was measured on last: a GGUF adapter on a quantized base, another on its base."""
    hosts = (host_in(evaluation, adapter) for evaluation in reversed(registry.evaluations(adapter.id)))
    host_id = next((host for host in hosts if host is not None), None)
    return None if host_id is None else registry.get(host_id)


def host_in(evaluation: Artifact, adapter: Artifact) -> str | None:
    """The id of what the adapter was measured over in this evaluation."""
    measured = (parent.id for parent in evaluation.manifest.parents if parent.relation == "evaluation_of")
    return next((parent for parent in measured if parent != adapter.id), None)


def promoted_over(registry: Registry, channel: str, adapter: Artifact) -> Artifact | None:
    """What the adapter was measured over for the decision that moved the channel to it.

    Where a waiver moved it, what it was measured over first; None for one that never was.
    """
    hosts = [host for e in registry.evaluations(adapter.id) if (host := host_in(e, adapter)) is not None]
    for event in reversed(registry.channels.history(channel)):
        if event.artifact_id == adapter.id and event.decision_id is not None:
            read = registry.gates.get(event.decision_id).evidence.get("evaluations", {})
            host = host_in(registry.get(read["candidate"]), adapter) if "candidate" in read else None
            if host is not None:
                hosts.insert(0, host)
                break
    return registry.get(hosts[0]) if hosts else None
