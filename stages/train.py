"""Train a QLoRA adapter on NF4 weights: on answers, or on which answers are preferred."""

from __future__ import annotations

from pathlib import Path

from registry.artifacts import Relation
from stages.config.train import TrainConfig
from stages.contract import Facts, Parents, toolchain

VERSION = 5
TOOLS = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate")
RELATIONS: dict[str, Relation] = {"base": "adapter", "dataset": "trained_on", "adapter": "finetune"}


def train(parents: Parents, config: TrainConfig, out: Path) -> Facts:
    """Train an adapter for `parents["base"]` on `parents["dataset"]`; write a PEFT directory under `out`.

    With `method: dpo` the dataset holds pairs, with `kto` good and bad answers, and `parents["adapter"]`,
    where their `start` asks for one, is trained further; it is the reference too, read once, before the first
    step.

    Files: `adapter_model.safetensors`, `adapter_config.json`, `tuneline.json` (base reference, quant
    config, LoRA settings), `history.jsonl` (a row per logged step: step, loss, learning_rate,
    tokens; and per evaluation: step, validation_loss; of DPO also the share of pairs whose margin is above 0,
    `preferred`, and the mean `margin`, of KTO `as_labelled` and `kl`), tokenizer files. Resumes from
    `out/checkpoints` when it was left by the same inputs; removes it at the end.
    Facts of kind `adapter`; metrics: steps, tokens, train loss, validation losses, trainable parameters.
    Raises `Diverged` on a NaN or infinite loss, `InvalidInput` for rows or layer names that do not fit,
    `InsufficientResources` when the model and its activations would not fit into memory.
    """
    from stages.backends.train.qlora import train_adapter

    return train_adapter(parents, config, out, VERSION, toolchain(TOOLS))
