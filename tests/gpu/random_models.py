"""Models of a given shape with random weights in NF4, made a layer at a time, never all of it in 16 bits."""

from __future__ import annotations

import torch
from bitsandbytes.nn import Linear4bit
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel


def random_nf4(config: LlamaConfig, device: str) -> PreTrainedModel:
    """As `stages.backends.nf4.load_nf4` returns it, on `device`: linear layers but the head packed, the rest
    in bfloat16."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    head = model.get_output_embeddings()
    torch.manual_seed(0)
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear and layer is not head:
            model.set_submodule(name, _packed(layer, device))
    for name, weight in list(model.named_parameters()):
        if weight.is_meta:
            module, _, last = name.rpartition(".")
            made = torch.empty(weight.shape, dtype=weight.dtype, device=device)
            made = made.fill_(1) if "norm" in name else made.normal_(0, 0.02)
            setattr(model.get_submodule(module), last, nn.Parameter(made))
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    model.tie_weights()
    model.is_loaded_in_4bit = True
    return model


def _packed(layer: nn.Linear, device: str) -> Linear4bit:
    packed = Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=False,
        compute_dtype=torch.bfloat16,
        compress_statistics=True,
        quant_type="nf4",
    )
    packed.weight.data = torch.randn(layer.out_features, layer.in_features, dtype=torch.bfloat16) * 0.02
    packed.support_avx512bf16_for_cpu = False
    return packed.to(device)
