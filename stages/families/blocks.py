"""The linear layers of one decoder block, family by family, under transformers' own names.

They are what NF4 packs and an adapter changes. The experts of a mixture are none of them: transformers keeps
all of a block's experts in one tensor. A test holds the table against the modules of every family.
"""

from __future__ import annotations

from collections.abc import Mapping

Layers = Mapping[str, tuple[str, str]]
"""Name (as much of it as tells two layers apart) → what its inputs and its outputs are as many as.

`fused`: queries, keys and values in one; `inner`: of the MLP; `gate_up`: twice that; `shared`: of the expert
that every token passes.
"""

ATTENTION: Layers = {
    "q_proj": ("hidden", "queries"),
    "k_proj": ("hidden", "keys"),
    "v_proj": ("hidden", "keys"),
    "o_proj": ("queries", "hidden"),
}
PLAIN: Layers = {"up_proj": ("hidden", "inner"), "down_proj": ("inner", "hidden")}
LLAMA: Layers = {**ATTENTION, "gate_proj": ("hidden", "inner"), **PLAIN}
_HALVED: Layers = {"gate_up_proj": ("hidden", "gate_up"), "down_proj": ("inner", "hidden")}
_APART: Layers = {name: ATTENTION[name] for name in ("q_proj", "k_proj", "v_proj")}
_OUT: Layers = {**_APART, "out_proj": ("queries", "hidden")}
_FC: Layers = {"fc1": ("hidden", "inner"), "fc2": ("inner", "hidden")}
_IN_OUT: Layers = {"fc_in": ("hidden", "inner"), "fc_out": ("inner", "hidden")}
_C: Layers = {"mlp.c_fc": ("hidden", "inner"), "mlp.c_proj": ("inner", "hidden")}
_GPT: Layers = {"attn.c_attn": ("hidden", "fused"), "attn.c_proj": ("queries", "hidden"), **_C}
_NEOX: Layers = {
    "query_key_value": ("hidden", "fused"),
    "dense": ("queries", "hidden"),
    "dense_h_to_4h": ("hidden", "inner"),
    "dense_4h_to_h": ("inner", "hidden"),
}
_SHARED: Layers = {
    "shared_expert.gate_proj": ("hidden", "shared"),
    "shared_expert.up_proj": ("hidden", "shared"),
    "shared_expert.down_proj": ("shared", "hidden"),
    "shared_expert_gate": ("hidden", "one"),
}

_ALIKE: tuple[tuple[str, Layers], ...] = (
    (
        "cohere cohere2 ernie4_5 exaone4 gemma gemma2 gemma3_text granite helium hunyuan_v1_dense llama "
        "ministral3 mistral olmo olmo2 olmo3 qwen2 qwen3 seed_oss smollm3 stablelm",
        LLAMA,
    ),
    ("apertus arcee nemotron", {**ATTENTION, **PLAIN}),
    ("glm glm4", {**ATTENTION, **_HALVED}),
    ("gpt_oss granitemoe mixtral olmoe phimoe qwen3_moe", ATTENTION),
    ("bloom gpt_neox persimmon", _NEOX),
    ("gpt2 gpt_bigcode", _GPT),
    ("biogpt opt xglm", {**_OUT, **_FC}),
    ("codegen", {"qkv_proj": ("hidden", "fused"), "out_proj": ("queries", "hidden"), **_IN_OUT}),
    ("gpt_neo", {**_OUT, **_C}),
    ("gptj", {**_OUT, **_IN_OUT}),
    ("mpt", {"Wqkv": ("hidden", "fused"), "out_proj": ("queries", "hidden"), **PLAIN}),
    ("phi", {**_APART, "dense": ("queries", "hidden"), **_FC}),
    ("phi3", {"qkv_proj": ("hidden", "fused"), "o_proj": ("queries", "hidden"), **_HALVED}),
    ("qwen2_moe", {**ATTENTION, **_SHARED}),
    ("starcoder2", {**ATTENTION, **_C}),
)
BLOCKS: Mapping[str, Layers] = {family: block for families, block in _ALIKE for family in families.split()}
"""`model_type` → its block."""


def block_of(family: str, gated: bool, experts: bool) -> Layers:
    """A family's block; one that is not in the table is taken for a Llama's, or Mixtral's with `experts`."""
    if family in BLOCKS:
        return BLOCKS[family]
    if experts:
        return ATTENTION
    return LLAMA if gated else {**ATTENTION, **PLAIN}


def is_called(layer: str, ending: str) -> bool:
    """Whether `ending`, as a user names modules, means the table's `layer`."""
    return f".{layer}".endswith(f".{ending}") or f".{ending}".endswith(f".{layer}")
