"""Tiny models of many families, as their own classes make and save them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerFast

LLAMA = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 16,
}  # fmt: skip
MOE = {**LLAMA, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
SMALL = {"moe_intermediate_size": 64, "shared_expert_intermediate_size": 96}
GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
NEOX = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 64}  # fmt: skip
GEMMA = LLAMA | {"query_pre_attn_scalar": 16, "sliding_window": 32}

SETTINGS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("llama", "mistral", "ministral3", "qwen2", "qwen3", "gemma", "phi3", "olmo", "olmo2", "olmo3",
         "stablelm", "cohere", "cohere2", "granite", "smollm3", "starcoder2", "glm", "glm4", "exaone4",
         "seed_oss", "ernie4_5", "hunyuan_v1_dense", "arcee", "nemotron", "apertus", "helium"),
        LLAMA,
    ),
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "phi": NEOX,
    "gpt_neox": NEOX,
    "persimmon": NEOX,
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
    "xglm": {"d_model": 64, "ffn_dim": 128, "num_layers": 2, "attention_heads": 4,
             "max_position_embeddings": 64},
    "biogpt": NEOX,
    "mixtral": MOE,
    "qwen2_moe": MOE | SMALL,
    "qwen3_moe": MOE | SMALL,
    "olmoe": MOE,
    "granitemoe": MOE,
    "phimoe": MOE,
    "gpt_oss": MOE | {"sliding_window": 32},
}  # fmt: skip
WORDS = 256
END = "w2"
TEMPLATE = "{% for m in messages %}{{ m.content + ' ' + eos_token + ' ' }}{% endfor %}"


def config_of(family: str, **more: Any) -> PretrainedConfig:
    """A tiny configuration of a family of transformers; `more` in transformers' own names."""
    config = AutoConfig.for_model(
        family, vocab_size=WORDS, bos_token_id=1, eos_token_id=2, pad_token_id=0, **SETTINGS[family]
    )
    for name, value in more.items():
        setattr(config, name, value)
    return config


def save_family(family: str, folder: Path, **more: Any) -> Path:
    """A model with random 16-bit weights, a tokenizer of words and a chat template; `more` as in `config_of`.

    The weights are as wide as a trained model's, so that each block changes what comes out.
    """
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(family, initializer_range=0.08, **more))
    model.to(torch.float16).save_pretrained(folder)
    words = Tokenizer(WordLevel({f"w{number}": number for number in range(WORDS)}, unk_token="w0"))
    words.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, eos_token=END, pad_token="w0", unk_token="w0")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return folder


def save_chats(folder: Path) -> Path:
    """A prepared dataset of short chats in that tokenizer's words."""
    folder.mkdir(parents=True)

    def chat(number: int) -> dict[str, Any]:
        said = [f"w{3 + (number * 7 + k * k) % (WORDS - 3)}" for k in range(24)]
        answer = {"role": "assistant", "content": " ".join(said[16:])}
        return {"messages": [{"role": "user", "content": " ".join(said[:16])}, answer]}

    for split, first, count in (("train", 0, 48), ("validation", 100, 4), ("test", 200, 6)):
        table = pa.Table.from_pylist([chat(first + k) for k in range(count)])
        pq.write_table(table, folder / f"{split}.parquet")
    return folder
