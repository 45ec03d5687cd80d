"""What TRL's trainer is told of a recipe."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch
from trl import SFTConfig

from stages.backends.arithmetic import effective
from stages.config.train import TrainConfig

log = logging.getLogger("tuneline.train")

SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def total_steps(rows: int, config: TrainConfig) -> int:
    """Optimizer steps for `config.epochs` passes over `rows` rows, at most `config.max_steps`."""
    steps = math.ceil(rows * config.epochs / (config.batch_size * config.gradient_accumulation))
    return min(steps, config.max_steps or steps)


def arguments(config: TrainConfig, steps: int, checkpoints: Path) -> SFTConfig:
    """Of TRL's trainer, for `steps` optimizer steps."""
    on_gpu = torch.cuda.is_available()
    optimizer = "adamw_torch_fused" if config.optimizer == "adamw" or not on_gpu else config.optimizer
    if optimizer != config.optimizer and config.optimizer != "adamw":
        log.info(
            "optimizer %s needs CUDA; using AdamW in 32 bits, which does the same unpaged", config.optimizer
        )
    return SFTConfig(
        output_dir=str(checkpoints),
        use_cpu=not on_gpu,
        bf16=effective(config.nf4.compute_dtype) == torch.bfloat16,
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=2 * config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type=SCHEDULES[config.schedule],
        warmup_steps=math.ceil(config.warmup_ratio * steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        neftune_noise_alpha=config.neftune_noise_alpha,
        optim=optimizer,
        gradient_checkpointing=config.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if config.gradient_checkpointing else None,
        train_sampling_strategy="sequential",
        packing=config.packing,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=config.max_length if config.packing else None,
        dataloader_pin_memory=on_gpu,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=config.seed,
    )
