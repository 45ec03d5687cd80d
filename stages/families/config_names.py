"""A decoder's configuration under one set of names, whatever its family calls them, without torch.

transformers knows the names too, but takes seconds to import; a test holds this table against its attribute
maps for every family of causal language models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.errors import InvalidInput
from stages.formats.model_directory import ModelConfig

NAMES: Mapping[str, tuple[str, ...]] = {
    "hidden_size": ("n_embd", "d_model", "emb_dim"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads", "attention_heads"),
    "intermediate_size": ("n_inner", "ffn_dim", "ffn_hidden_size", "d_ff", "moe_intermediate_size"),
    "max_position_embeddings": ("n_positions", "max_seq_len", "model_max_length", "context_length"),
    "num_key_value_heads": ("num_kv_heads",),
    "num_experts": ("num_local_experts", "n_routed_experts", "moe_num_experts"),
}
"""transformers' name → what families call it in config.json; its own name goes first."""

TIED_BY_DEFAULT = frozenset({
    "biogpt", "bloom", "cohere", "cohere2", "cohere2_moe", "cpmant", "ctrl", "ernie4_5", "ernie4_5_moe",
    "falcon", "falcon_mamba", "gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "gemma4",
    "gemma4_text", "gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox_japanese", "granite_swa", "jetmoe",
    "lfm2", "lfm2_moe", "mamba", "minicpm3", "modernbert-decoder", "mpt", "openai-gpt", "opt",
    "recurrent_gemma", "smollm3", "starcoder2", "vaultgemma", "xglm", "youtu", "zamba", "zamba2", "zaya",
})  # fmt: skip
"""Families whose head is the embedding where config.json says nothing of it."""

ENCODERS = frozenset({
    "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert",
    "reformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm", "xlm-roberta",
    "xlm-roberta-xl", "xlnet", "xmod",
})  # fmt: skip
"""Families that read both ways unless they are told `is_decoder`, and have a causal class all the same."""

CAUSAL = ("ForCausalLM", "LMHeadModel")
"""How transformers' classes of causal language models end."""


def text_config(raw: Mapping[str, Any], source: str) -> ModelConfig:
    """`raw` (config.json) with every value of `NAMES` under transformers' name where the family has it.

    A configuration that keeps its text model apart is read there. Raises `InvalidInput` naming the family
    where it is no decoder with attention.
    """
    inner = raw.get("text_config")
    config = {**raw, **(inner if isinstance(inner, dict) else {})}
    family = str(config.get("model_type", raw.get("model_type", "")))
    for name, others in NAMES.items():
        value = next((config[key] for key in (name, *others) if config.get(key) is not None), None)
        if value is not None:
            config[name] = value
    if reason := _no_decoder(config, family):
        raise InvalidInput(f"{source}: {_called(raw)} {reason}; {_CHOOSE}")
    config["num_key_value_heads"] = _kv_heads(config)
    if family:
        config.setdefault("tie_word_embeddings", family in TIED_BY_DEFAULT)
    return config


def _no_decoder(config: Mapping[str, Any], family: str) -> str:
    """Why this is no decoder with attention; empty where it is one."""
    if config.get("is_encoder_decoder"):
        return "has an encoder, and this is for decoders alone"
    if family in ENCODERS and not config.get("is_decoder"):
        return "reads its text both ways, as an encoder, and this is for decoders alone"
    if not family or "num_attention_heads" in config:
        return ""
    names = config.get("architectures")
    architecture = str(names[0]) if isinstance(names, list) and names else ""
    if architecture and not architecture.endswith(CAUSAL):
        return "is not a causal language model"
    if "hidden_size" not in config:
        return ""
    return (
        "has no attention heads in its configuration, so it is not a decoder that can be trained or "
        "quantized here"
    )


MOST_STRETCHED = 1e6
"""A factor above is a mistake, and so is one that is no number."""


def positions(config: Mapping[str, Any]) -> int | None:
    """Tokens that a model can read, of a `text_config`; None where it states no length, as with ALiBi."""
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    family = str(config.get("model_type", ""))
    return stretched(config.get("max_position_embeddings"), rope if isinstance(rope, dict) else {}, family)


def stretched(length: Any, rope: Mapping[str, Any], family: str) -> int | None:
    """`length` under a scaling of the rotary embedding; None where it is no length.

    `linear` and `dynamic` stretch what is stated, `yarn` the length before it; what other kinds (`llama3`,
    `longrope`) reach is stated already, and so it is in Gemma 3 of any kind. vLLM counts likewise.
    """
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        return None
    kind, factor = rope.get("rope_type", rope.get("type")), rope.get("factor")
    stated = kind not in ("linear", "dynamic", "yarn") or family.startswith("gemma3")
    if stated or not isinstance(factor, int | float) or not 1 <= factor <= MOST_STRETCHED:
        return length
    before = rope.get("original_max_position_embeddings") if kind == "yarn" else None
    return max(length, int((before if isinstance(before, int) else length) * factor))


_CHOOSE = "choose a decoder such as a Llama, Qwen, Gemma, GPT-2 or Mixtral"


def _kv_heads(config: Mapping[str, Any]) -> int | None:
    grouped = config.get("new_decoder_architecture", False)
    if config.get("multi_query") and not grouped:  # Falcon, BigCode
        return 1
    attention = config.get("attn_config")
    if isinstance(attention, dict) and isinstance(attention.get("kv_n_heads"), int):  # MPT
        return int(attention["kv_n_heads"])
    heads = config.get("num_key_value_heads") or config.get("num_attention_heads")
    return heads if isinstance(heads, int) else None


def _called(raw: Mapping[str, Any]) -> str:
    names = raw.get("architectures")
    name = names[0] if isinstance(names, list) and names else "a model without a name"
    return f"{name} (model_type {raw.get('model_type', 'unknown')})"
