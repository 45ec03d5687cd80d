"""How much memory training takes, from the files' headers and the settings alone; loads nothing."""

from __future__ import annotations

import json
from pathlib import Path

from stages.backends.model_files import read_headers
from stages.train import TrainConfig

NF4_BYTES_PER_WEIGHT = 0.516
"""Half a byte, plus one byte per 64 weights and 4 bytes per 64 × 256 (double quantization)."""
RUNTIME_BYTES = 800_000_000
"""Python, torch and the libraries around them, measured with the weights taken away."""
ACTIVATION_FACTOR = 34
"""Bytes per token, layer and hidden unit kept for the backward pass, in 16 bits and without the attention
matrix (Korthikanti et al. 2022, arXiv:2205.05198, eq. 2)."""


def training_bytes(base: Path, config: TrainConfig, longest: int, dequantized: bool) -> int:
    """An upper estimate of the memory that training takes, in bytes, for rows of up to `longest` tokens."""
    settings = json.loads((base / "config.json").read_text())
    hidden, layers = settings["hidden_size"], settings["num_hidden_layers"]
    vocabulary = settings["vocab_size"]
    linear = adapter = other = 0
    for tensor in read_headers(base).values():
        if len(tensor.shape) == 2 and tensor.shape[0] != vocabulary:
            linear += tensor.numel
            adapter += config.lora.rank * sum(tensor.shape)
        else:
            other += tensor.numel
    held = (4 if config.nf4.compute_dtype == "float32" else 2) if dequantized else NF4_BYTES_PER_WEIGHT
    tokens = config.batch_size * longest
    kept = 4 * layers + ACTIVATION_FACTOR if config.gradient_checkpointing else ACTIVATION_FACTOR * layers
    wide = 2 if config.nf4.compute_dtype == "float32" else 1
    # per trainable number: itself, its gradient and two moments, each float32
    weights = linear * held + other * 4 + adapter * 16
    return int(RUNTIME_BYTES + weights + tokens * hidden * kept * wide + 2 * tokens * vocabulary * 4)
