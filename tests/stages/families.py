"""Tiny models of many families, as their own classes make and save them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from tests.stages.lora_models import save_tokenizer

LLAMA = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 16,
}  # fmt: skip
MOE = {**LLAMA, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
NEOX = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}

SETTINGS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3", "olmo", "olmo2", "stablelm", "cohere",
         "granite", "smollm3", "starcoder2", "glm", "glm4", "exaone4", "seed_oss", "ernie4_5",
         "hunyuan_v1_dense", "arcee"),
        LLAMA,
    ),
    "gemma2": LLAMA | {"query_pre_attn_scalar": 16, "sliding_window": 32},
    "gemma3_text": LLAMA | {"query_pre_attn_scalar": 16, "sliding_window": 32},
    "phi": NEOX | {"max_position_embeddings": 64},
    "gpt_neox": NEOX | {"max_position_embeddings": 64},
    "gpt2": GPT,
    "gptj": GPT | {"rotary_dim": 16},
    "codegen": GPT | {"rotary_dim": 16, "n_ctx": 64},
    "gpt_bigcode": GPT,
    "gpt_neo": {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 64,
                "attention_types": [[["global", "local"], 1]]},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    "falcon": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    "opt": {"hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "max_position_embeddings": 64, "word_embed_proj_dim": 64},
    "mixtral": MOE,
    "qwen2_moe": MOE | {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    "qwen3_moe": MOE | {"moe_intermediate_size": 32},
    "olmoe": MOE,
    "granitemoe": MOE,
}  # fmt: skip
WORDS = 256


def config_of(family: str) -> PretrainedConfig:
    """A tiny configuration of a family of transformers."""
    return AutoConfig.for_model(
        family, vocab_size=WORDS, bos_token_id=1, eos_token_id=2, pad_token_id=0, **SETTINGS[family]
    )


def save_family(family: str, folder: Path) -> Path:
    """A model with random 16-bit weights, a tokenizer of words and a chat template."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config_of(family)).to(torch.float16).save_pretrained(folder)
    save_tokenizer(WORDS, folder, "{% for m in messages %}{{ m.content }} w2 {% endfor %}")
    return folder
