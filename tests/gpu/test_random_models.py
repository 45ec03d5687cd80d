"""The builder of random models, on the CPU."""

from __future__ import annotations

import torch
from transformers import LlamaConfig

from stages.backends import nf4
from stages.config.train import Nf4Config
from tests.gpu.random_models import random_nf4


def test_a_random_model_is_as_a_loaded_one() -> None:
    config = LlamaConfig(
        vocab_size=500, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    model = random_nf4(config, "cpu")
    nf4.require_nf4(model, Nf4Config())
    assert len(list(nf4.quantized_modules(model))) == 14
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=torch.arange(1, 20)[None], use_cache=False).logits
    assert logits.shape == (1, 19, 500)
    assert logits.isfinite().all()
    assert logits.float().std() > 0
