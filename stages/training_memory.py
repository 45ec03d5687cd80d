"""How much memory a training step takes, from a model's shape and the settings alone."""

from __future__ import annotations

from typing import Literal

from stages.config.train import TrainConfig
from stages.families.blocks import is_called
from stages.model_shape import ModelShape

RUNTIME = 800_000_000
"""Bytes of Python, torch and the libraries around them, or of a CUDA context with its kernels."""
LIGHT_RUNTIME = 550_000_000
"""The same of what works on files and computes nothing with torch."""
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8
"""Bytes per weight: 4 bits, an 8-bit constant per 64, a 32-bit one per 256 of those: 4.127 bits
(Dettmers et al. 2023, arXiv:2305.14314, section 3)."""
NF4_SINGLE_BYTES = (4 + 32 / 64) / 8
KEPT_PER_LAYER = 38
"""Bytes per token and hidden unit that a layer keeps for its backward pass: 34 in 16 bits without attention
matrix (Korthikanti et al. 2022, arXiv:2205.05198, eq. 2), and 4 for the float32 residual."""
KEPT_PER_LOGIT = 18
"""Bytes per token and vocabulary entry: 16-bit logits, float32 copy, log-softmax, and their gradients."""


def training_memory(
    shape: ModelShape, config: TrainConfig, longest: int, frozen: Literal["packed", "dequantized"], gpu: bool
) -> int:
    """Bytes at the peak of a training step on sequences of `longest` tokens.

    Frozen linear weights in NF4 or 16 bits; embedding, head and norms in float32, as
    prepare_model_for_kbit_training holds them. Per adapter parameter 4 bytes each for weight, gradient and
    two Adam moments; with a paged optimizer on a GPU the moments move to main memory when the GPU is full.
    Activations: with checkpointing one float32 hidden state per layer and one layer in full, else every
    layer in full. Within 4 % of five measurements on SmolLM2-135M (140 to 3840 tokens, with and without
    checkpointing, dropout and packing), on a CPU.
    """
    wide = 2 if config.nf4.compute_dtype == "float32" else 1
    nf4 = NF4_BYTES if config.nf4.double_quant else NF4_SINGLE_BYTES
    per_weight = nf4 if frozen == "packed" else 2 * wide
    weights = shape.linear_parameters * per_weight + (shape.parameters - shape.linear_parameters) * 4
    paged = gpu and config.optimizer.startswith("paged")
    moments = 0 if paged else (2 if config.optimizer == "paged_adamw_8bit" else 8)
    adapter = adapter_parameters(shape, config) * (8 + moments)
    # the adapter keeps a 16-bit copy of its input, and dropout its mask: float32 on a CPU, a byte on a GPU
    inputs = sum(widths[0] for widths in _adapted(shape, config).values())
    mask = (1 if gpu else 5) if config.lora.dropout else 0
    layer = KEPT_PER_LAYER * wide * shape.hidden + (2 * wide + mask) * inputs
    kept = 4 * shape.hidden * shape.layers + layer if config.gradient_checkpointing else layer * shape.layers
    tokens = config.batch_size * longest
    return int(RUNTIME + weights + adapter + tokens * (kept + KEPT_PER_LOGIT * shape.vocabulary))


def adapter_parameters(shape: ModelShape, config: TrainConfig) -> int:
    """rank × (inputs + outputs) of every adapted layer."""
    widths = _adapted(shape, config).values()
    return config.lora.rank * shape.layers * sum(inputs + outputs for inputs, outputs in widths)


def _adapted(shape: ModelShape, config: TrainConfig) -> dict[str, tuple[int, int]]:
    endings = config.lora.target_modules
    named = (endings,) if isinstance(endings, str) else endings
    return {
        name: widths
        for name, widths in shape.linear_shapes().items()
        if endings == "all-linear" or any(is_called(name, ending) for ending in named)
    }
