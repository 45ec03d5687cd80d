"""Tiny models and PEFT adapters with random non-zero weights, for the merge tests."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from stages.backends import safetensors as files

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IDS = torch.arange(2, 50)[None]

logging.getLogger("transformers").setLevel(logging.ERROR)


def save_llama(
    folder: Path,
    tied: bool = False,
    dtype: torch.dtype = torch.float16,
    shard_size: str = "1GB",
    **config: Any,
) -> Path:
    torch.manual_seed(0)
    settings = LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        initializer_range=0.1,
        **config,
    )
    model = LlamaForCausalLM(settings)
    if config.get("attention_bias"):
        _randomize_biases(model)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    return folder


def save_gpt2(folder: Path) -> Path:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=64, n_layer=2, n_head=4, n_positions=64))
    _randomize_biases(model)
    model.to(torch.float16).save_pretrained(folder)
    return folder


def save_tokenizer(length: int, folder: Path, template: str | None = None) -> None:
    """A tokenizer of the words w0, w1, …, one id each."""
    words = Tokenizer(WordLevel({f"w{number}": number for number in range(length)}, unk_token="w0"))
    words.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=words)
    fast.chat_template = template
    fast.save_pretrained(folder)


def _randomize_biases(model: torch.nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0, 0.1)


def save_adapter(base: Path, folder: Path, rows: int | None = None, **lora: Any) -> Path:
    """An adapter whose every trainable weight is random, so that each one matters; `rows`: resize first."""
    model = load(base, torch.float32)
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    settings = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", "target_modules": LINEAR} | lora
    peft = get_peft_model(model, LoraConfig(**settings))
    torch.manual_seed(1)
    for parameter in peft.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    with warnings.catch_warnings():
        # PEFT notes that it saves the embedding too; some of these adapters want exactly that
        warnings.filterwarnings("ignore", message="Setting `save_embedding_layers` to `True`")
        peft.save_pretrained(folder)
    return folder


def load(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def with_adapter(base: Path, adapter: Path, dtype: torch.dtype = torch.float32) -> PeftModel:
    return PeftModel.from_pretrained(load(base, dtype), adapter)


def logits(model: torch.nn.Module, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(ids).logits.float()


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """‖a − b‖ / ‖b‖"""
    return float((a - b).norm() / b.norm())


def save_synthetic(
    base: Path,
    adapter: Path,
    hidden: int,
    layers: int,
    rank: int,
    vocab: int = 2048,
    dtype: torch.dtype = torch.float16,
) -> None:
    """A Llama-shaped 16-bit checkpoint and an adapter on all linear layers; no model is built."""
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        architectures=["LlamaForCausalLM"],
        dtype=str(dtype).removeprefix("torch."),
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    base.mkdir(parents=True)
    config.save_pretrained(base)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    generator = torch.Generator().manual_seed(0)

    def random(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape).normal_(0, 0.02, generator=generator).to(dtype)

    specs = [files.TensorSpec(name, files.CODES[dtype], shape) for name, shape in shapes.items()]
    files.write_model(base, specs, 1_000_000_000, lambda name: random(shapes[name], dtype))
    adapter.mkdir(parents=True)
    LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=LINEAR,
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(base),
    ).save_pretrained(adapter)
    factors = {}
    for name, shape in shapes.items():
        if name.split(".")[-2] in LINEAR:
            prefix = f"base_model.model.{name.removesuffix('.weight')}"
            factors[f"{prefix}.lora_A.weight"] = (rank, shape[1])
            factors[f"{prefix}.lora_B.weight"] = (shape[0], rank)
    files.write_file(
        adapter / "adapter_model.safetensors",
        [files.TensorSpec(name, "F32", shape) for name, shape in factors.items()],
        lambda name: random(factors[name], torch.float32),
    )
