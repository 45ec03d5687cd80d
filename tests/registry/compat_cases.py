"""Pairs of manifests for the compatibility contract: healthy ones of every kind, and one fault at a time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from registry.artifacts import BaseReference, Kind, Manifest, QuantSpec, digest
from registry.compat.model import Described, EngineLimits, Use
from registry.compat.shapes import Nf4Recipe
from serving.engine.capabilities import limits
from stages.outline import adapter_outline, model_outline

HIDDEN, INNER, KEYS, LAYERS, ROWS, IDS = 64, 128, 32, 2, 96, 90
MODULES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KEYS, HIDDEN),
    "self_attn.v_proj": (KEYS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
"""Short name → (outputs, inputs)."""
NF4 = {"quant_type": "nf4", "double_quant": True, "compute_dtype": "bfloat16"}
ARCHITECTURES = frozenset({"LlamaForCausalLM", "Qwen2ForCausalLM"})


@dataclass(frozen=True)
class Case:
    """A pair, and what is to be done with it."""

    base: Described
    dependent: Described | None
    use: Use


def reference(**changes: Any) -> BaseReference:
    told = {name: digest(name) for name in ("weights", "tokenizer", "template")}
    base = BaseReference(
        source="hub:acme/tiny", revision="a" * 40, weights_digest=told["weights"],
        tokenizer_digest=told["tokenizer"], tokenizer_length=IDS, embedding_rows=ROWS,
        chat_template_digest=told["template"], architecture="LlamaForCausalLM",
    )  # fmt: skip
    return base.model_copy(update=changes)


def weights(dtype: str = "BF16", rows: int = ROWS, tied: bool = True, hidden: int = HIDDEN) -> dict[str, Any]:
    """A Llama's safetensors headers: name → (dtype, shape)."""
    found = {"model.embed_tokens.weight": (dtype, (rows, hidden)), "model.norm.weight": (dtype, (hidden,))}
    if not tied:
        found["lm_head.weight"] = (dtype, (rows, hidden))
    for layer in range(LAYERS):
        for name, shape in MODULES.items():
            found[f"model.layers.{layer}.{name}.weight"] = (dtype, shape)
    return found


def packed(bits: int = 4, group: int = 32) -> dict[str, Any]:
    """The same model after GPTQ."""
    found = {k: v for k, v in weights("F16").items() if "layers" not in k}
    for layer in range(LAYERS):
        for name, (outputs, inputs) in MODULES.items():
            prefix = f"model.layers.{layer}.{name}"
            found[f"{prefix}.qweight"] = ("I32", (inputs * bits // 32, outputs))
            found[f"{prefix}.scales"] = ("F16", (inputs // group, outputs))
            found[f"{prefix}.qzeros"] = ("I32", (inputs // group, outputs * bits // 32))
            found[f"{prefix}.g_idx"] = ("I32", (inputs,))
    return found


def factors(
    rank: int = 8, modules: tuple[str, ...] = tuple(MODULES), prefix: str = "model.layers"
) -> dict[str, Any]:
    """A LoRA's safetensors headers."""
    found = {}
    for layer in range(LAYERS):
        for name in modules:
            outputs, inputs = MODULES.get(name, (HIDDEN, HIDDEN))
            module = f"base_model.model.model.layers.{layer}.{name}"
            found[f"{module}.lora_A.weight"] = ("F32", (rank, inputs))
            found[f"{module}.lora_B.weight"] = ("F32", (outputs, rank))
    return found


def manifest(kind: Kind, base: BaseReference, quant: QuantSpec, metrics: dict[str, Any]) -> Manifest:
    return Manifest(
        kind=kind, stage="test", stage_version=1, config={}, toolchain={}, base=base, quant=quant,
        metrics=metrics, files={},
    )  # fmt: skip


def base(ref: BaseReference | None = None, context: int = 2048, tied: bool = True, **more: Any) -> Manifest:
    config = {"max_position_embeddings": context, "tie_word_embeddings": tied}
    outline = model_outline(config, weights(tied=tied, **more)).model_dump(mode="json")
    return manifest("base", ref or reference(), QuantSpec(method="none"), {"outline": outline})


def adapter(
    ref: BaseReference | None = None, headers: dict[str, Any] | None = None, ids: int | None = IDS,
    trained: dict[str, Any] | None = NF4, **config: Any,
) -> Manifest:  # fmt: skip
    settings = {"r": 8, "lora_alpha": 16, "bias": "none", **config}
    outline = adapter_outline(settings, headers or factors(), ids).model_dump(mode="json")
    quant = QuantSpec(method="none") if trained is None else QuantSpec(method="bnb", requested=trained)
    return manifest("adapter", ref or reference(), quant, {"outline": outline})


def with_template(made: Manifest, sha256: str | None) -> Manifest:
    """As its import records the template beside it."""
    assert made.quant is not None
    effective = {"chat_template": {"present": sha256 is not None, "sha256": sha256}}
    return made.model_copy(update={"quant": made.quant.model_copy(update={"effective": effective})})


def gguf_adapter(
    ref: BaseReference | None = None, trained: dict[str, Any] | None = NF4, **config: Any
) -> Manifest:
    made = adapter(ref, **config)
    quant = QuantSpec(method="gguf", effective={} if trained is None else {"trained_on": trained})
    return made.model_copy(update={"quant": quant})


def merged(
    ref: BaseReference | None = None,
    folded: Any = "16bit",
    headers: dict[str, Any] | None = None,
    template: str | None = None,
) -> Manifest:
    config = {"max_position_embeddings": 2048, "tie_word_embeddings": True}
    outline = model_outline(config, headers or weights("F16")).model_dump(mode="json")
    brought = {"chat_template": {"present": True, "sha256": template}} if template else {}
    quant = QuantSpec(method="none", merge_base=folded, effective=brought)
    return manifest("merged", ref or reference(), quant, {"outline": outline})


def gptq(ref: BaseReference | None = None, folded: Any = "16bit", bits: int = 4, group: int = 32) -> Manifest:
    config = {"max_position_embeddings": 2048, "tie_word_embeddings": True}
    outline = model_outline(config, packed(bits, group)).model_dump(mode="json")
    effective = {"bits": bits, "group_size": group}
    quant = QuantSpec(method="gptq", effective=effective, merge_base=folded)
    return manifest("quantized", ref or reference(), quant, {"outline": outline})


def gguf(ref: BaseReference | None = None, folded: Any = "16bit", template: str | None = None) -> Manifest:
    found = ref or reference()
    effective = {"chat_template": {"present": True, "sha256": template or found.chat_template_digest}}
    quant = QuantSpec(method="gguf", effective=effective, merge_base=folded)
    outline = {"context_length": 2048, "tied": None, "tensors": {}}
    return manifest("quantized", found, quant, {"outline": outline})


def recipe(**changes: Any) -> Nf4Recipe:
    return Nf4Recipe.model_validate(NF4 | changes)


def vllm(max_rank: int = 16) -> EngineLimits:
    return limits("vllm", max_rank)


def llama_cpp() -> EngineLimits:
    return limits("llama.cpp")


def _on_base(dependent: Manifest, use: Use | None = None) -> Case:
    return Case(base(), dependent, use or Use())


def _resized(rows: int, **more: Any) -> dict[str, Any]:
    ends = {"model.embed_tokens": rows, "lm_head": rows, **more}
    return factors() | {f"base_model.model.{n}.weight": ("F32", (r, HIDDEN)) for n, r in ends.items()}


def _knows(architecture: str) -> Case:
    known = Use(llama_cpp(), architectures=ARCHITECTURES, naming=True)
    return Case(gguf(reference(architecture=architecture)), None, known)


def _adapter_of(**other: Any) -> Case:
    return _on_base(adapter(reference(**other)))


_ODD_NORM = {"base_model.model.model.norm.weight": ("F32", (HIDDEN + 1,))}

MISMATCHES: dict[str, tuple[str, Callable[[], Case]]] = {
    "another revision": ("revision", lambda: _adapter_of(revision="b" * 40)),
    "other weights": ("weights_digest", lambda: _adapter_of(weights_digest="1" * 64)),
    "another tokenizer": ("tokenizer_digest", lambda: _adapter_of(tokenizer_digest="2" * 64)),
    "a longer tokenizer": ("tokenizer_length", lambda: _adapter_of(tokenizer_length=IDS + 1)),
    "a padded embedding": ("embedding_rows", lambda: _adapter_of(embedding_rows=ROWS + 32)),
    "another chat template": ("chat_template_digest", lambda: _adapter_of(chat_template_digest="3" * 64)),
    "another architecture": ("architecture", lambda: _adapter_of(architecture="MistralForCausalLM")),
    "an adapter on a merged model": ("kinds", lambda: Case(merged(), adapter(), Use())),
    "modules that the base lacks": (
        "targets",
        lambda: _on_base(adapter(headers=factors(modules=("attention.query_key_value",)))),
    ),
    "modules of another width": ("targets", lambda: _on_base(adapter(headers=_widened(factors())))),
    "a whole module of another size": (
        "saved modules",
        lambda: _on_base(adapter(headers=_resized(ROWS) | _ODD_NORM)),
    ),
    "a whole module that the base lacks": (
        "saved modules",
        lambda: _on_base(adapter(headers=_resized(ROWS, score=2))),
    ),
    "more ids than rows": ("vocabulary", lambda: _on_base(adapter(ids=ROWS + 4))),
    "new rows and no tokenizer": (
        "vocabulary",
        lambda: _on_base(adapter(headers=_resized(ROWS + 8), ids=None)),
    ),
    "another NF4 recipe": (
        "quant recipe",
        lambda: _on_base(adapter(), Use(recipe=recipe(double_quant=False))),
    ),
    "a file of the other fold": ("merge base", lambda: Case(merged(folded="nf4"), gguf(), Use())),
    "a merged model of another size": (
        "tensors",
        lambda: Case(base(), merged(headers=weights("F16", hidden=HIDDEN * 2)), Use()),
    ),
    "a GPTQ checkpoint of another size": ("tensors", lambda: Case(base(hidden=HIDDEN * 2), gptq(), Use())),
    "another template in the file": (
        "template in the file",
        lambda: Case(base(), gguf(template="4" * 64), Use()),
    ),
    "another template beside the weights": (
        "template in the file",
        lambda: Case(base(), merged(template="4" * 64), Use()),
    ),
    "an adapter on a merged model in GGUF": (
        "kinds",
        lambda: Case(gguf(), gguf_adapter(), Use(llama_cpp())),
    ),
    "a PEFT adapter for llama.cpp": (
        "adapter format",
        lambda: Case(gguf(folded=None), adapter(), Use(llama_cpp())),
    ),
    "a GGUF adapter for vLLM": ("adapter format", lambda: _on_base(gguf_adapter(), Use(vllm()))),
    "a GGUF adapter of another revision": (
        "revision",
        lambda: Case(gguf(folded=None), gguf_adapter(reference(revision="b" * 40)), Use(llama_cpp())),
    ),
    "a GGUF file for vLLM": ("format", lambda: Case(gguf(), None, Use(vllm()))),
    "a merged model for llama.cpp": ("format", lambda: Case(merged(), None, Use(llama_cpp()))),
    "5-bit GPTQ for vLLM": ("gptq", lambda: Case(gptq(bits=5), None, Use(vllm()))),
    "GPTQ in groups of 48 for vLLM": ("gptq", lambda: Case(gptq(group=48), None, Use(vllm()))),
    "float8 weights for vLLM": (
        "dtype",
        lambda: Case(merged(headers=weights("F8_E4M3")), None, Use(vllm())),
    ),
    "a context beyond the model's": ("context length", lambda: Case(merged(), None, Use(vllm(), 4096))),
    "an architecture unknown to llama.cpp": ("engine architecture", lambda: _knows("NobodyForCausalLM")),
    "a rank above the engine's": (
        "rank",
        lambda: _on_base(adapter(headers=factors(rank=64), r=64), Use(vllm())),
    ),
    "DoRA for vLLM": ("adapter features", lambda: _on_base(adapter(use_dora=True), Use(vllm()))),
    "rsLoRA for llama.cpp": (
        "adapter features",
        lambda: Case(gguf(folded=None), gguf_adapter(use_rslora=True), Use(llama_cpp())),
    ),
    "tokens of an adapter's own for vLLM": (
        "adapter reading",
        lambda: _on_base(adapter(ids=IDS + 2), Use(vllm())),
    ),
    "tokens of an adapter's own for llama.cpp": (
        "adapter reading",
        lambda: Case(gguf(folded=None), gguf_adapter(ids=IDS + 2), Use(llama_cpp())),
    ),
    "a template of an adapter's own for vLLM": (
        "adapter reading",
        lambda: _on_base(with_template(adapter(), "4" * 64), Use(vllm())),
    ),
    "an adapter without a template for vLLM": (
        "adapter reading",
        lambda: _on_base(with_template(adapter(), None), Use(vllm())),
    ),
    "an embedding in a LoRA for llama.cpp": (
        "adapter features",
        lambda: Case(gguf(folded=None), gguf_adapter(headers=_resized(ROWS)), Use(llama_cpp())),
    ),
}
"""What is wrong → the check that refuses it, and the pair."""


def _widened(headers: dict[str, Any]) -> dict[str, Any]:
    return {
        name: (dtype, (shape[0], shape[1] + 32) if "q_proj.lora_A" in name else shape)
        for name, (dtype, shape) in headers.items()
    }


def valid(count: int, seed: int = 0) -> Iterator[Case]:
    """Healthy pairs in which everything that may differ differs: `count` of them, the same for one seed."""
    chance = random.Random(seed)
    makers = (_valid_adapter, _valid_merged, _valid_gptq, _valid_gguf, _valid_base, _valid_apart)
    for number in range(count):
        yield makers[number % len(makers)](chance)


def _valid_reference(chance: random.Random) -> tuple[BaseReference, BaseReference]:
    """One model, as two artifacts name it: from the same place, or from another with another revision."""
    rows = chance.choice((IDS, ROWS))
    architecture = chance.choice(sorted(ARCHITECTURES))
    found = reference(
        embedding_rows=rows, architecture=architecture, tokenizer_length=chance.randint(2, rows)
    )
    elsewhere = {"source": "path:tiny", "revision": "c" * 64}
    return found, found.model_copy(update=chance.choice(({}, {}, elsewhere)))


def _valid_adapter(chance: random.Random) -> Case:
    one, other = _valid_reference(chance)
    rank = chance.choice((1, 2, 8, 16))
    modules = tuple(chance.sample(list(MODULES), chance.randint(1, len(MODULES))))
    headers, rows = factors(rank, modules), one.embedding_rows
    use = Use()
    if chance.random() < 0.3:  # stored whole, resized with the tokenizer beside it
        rows += chance.choice((0, 8, 40))
        ends = ("model.embed_tokens", "lm_head")
        headers |= {f"base_model.model.{n}.weight": ("F32", (rows, HIDDEN)) for n in ends}
    elif chance.random() < 0.6:
        use = Use(vllm(chance.choice((16, 32, 64))), chance.randint(64, 2048))
    if use.engine is None and chance.random() < 0.5:
        use = Use(recipe=recipe())
    own = () if use.engine else (rows,)  # beside a base, an adapter is read by the base's tokenizer
    ids = rows if rows != one.embedding_rows else chance.choice((None, one.tokenizer_length, *own))
    dependent = adapter(other, headers, ids, r=rank, use_rslora=chance.random() < 0.5)
    under = base(one, chance.choice((2048, 8192)), chance.random() < 0.5, rows=one.embedding_rows)
    return Case(under, dependent, use)


def _valid_merged(chance: random.Random) -> Case:
    one, other = _valid_reference(chance)
    dtype, rows = chance.choice(("F16", "BF16")), one.embedding_rows + chance.choice((0, 0, 16))
    headers = weights(dtype, rows, chance.random() < 0.5)
    dependent = merged(other, chance.choice(("16bit", "nf4", None)), headers)
    use = chance.choice((Use(), Use(vllm(), chance.randint(64, 2048))))
    return Case(base(one, rows=one.embedding_rows), dependent, use)


def _valid_gptq(chance: random.Random) -> Case:
    one, other = _valid_reference(chance)
    folded = chance.choice(("16bit", "nf4"))
    dependent = gptq(other, folded, chance.choice((2, 4, 8)), 32)
    use = chance.choice((Use(), Use(vllm(), 2048)))
    return Case(merged(one, folded), dependent, use)


def _valid_gguf(chance: random.Random) -> Case:
    one, other = _valid_reference(chance)
    folded = chance.choice(("16bit", "nf4"))
    use = chance.choice(
        (Use(), Use(rendering=True), Use(llama_cpp(), 1024, architectures=ARCHITECTURES, naming=True))
    )
    under = chance.choice((merged(one, folded), base(one, rows=one.embedding_rows)))
    if use.rendering:  # whoever only renders chats may have other weights
        under = base(replace_weights(one), rows=one.embedding_rows)
    return Case(under, gguf(other, folded), use)


def _valid_apart(chance: random.Random) -> Case:
    one, other = _valid_reference(chance)
    ids = chance.choice((None, one.tokenizer_length))
    dependent = gguf_adapter(other, chance.choice((NF4, None)), ids=ids, r=chance.choice((1, 8, 64)))
    use = Use(llama_cpp(), 1024, architectures=ARCHITECTURES, naming=True, measured=chance.random() < 0.5)
    return Case(gguf(one, folded=None), dependent, use)


def _valid_base(chance: random.Random) -> Case:
    one, other = _valid_reference(chance)
    return Case(base(one, rows=one.embedding_rows), base(other, rows=one.embedding_rows), Use())


def replace_weights(one: BaseReference) -> BaseReference:
    """The same tokenizer and template over other weights."""
    return one.model_copy(update={"weights_digest": "9" * 64, "revision": "d" * 40})


def swapped(case: Case) -> Case:
    """The same pair, named the other way round."""
    return case if case.dependent is None else replace(case, base=case.dependent, dependent=case.base)
