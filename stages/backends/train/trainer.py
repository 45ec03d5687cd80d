"""Supervised fine-tuning with TRL: one trainer that stops on a bad loss and can be killed at any time."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from datasets import Dataset
from peft.helpers import disable_input_dtype_casting
from peft.optimizers import create_loraplus_optimizer
from torch.nn import functional
from transformers import PrinterCallback, TrainerCallback
from trl import SFTTrainer

from stages.backends.nf4 import require_not_repacked
from stages.backends.train.arguments import arguments, total_steps
from stages.backends.train.checkpoints import keep_only
from stages.backends.train.early_stopping import BestAdapter
from stages.backends.train.fused_lora import fused_lora
from stages.backends.train.lora import trainable
from stages.backends.train.loss import plain_head, summed_loss, without
from stages.backends.train.packing import Packed
from stages.backends.train.rows import IGNORED, training_order
from stages.config.train import TrainConfig
from stages.contract import progress
from stages.errors import Diverged
from stages.memory import LOGITS_AT_ONCE

log = logging.getLogger("tuneline.train")
Collator = Callable[[Sequence[Mapping[str, Any]]], dict[str, torch.Tensor]]


class Trainer(SFTTrainer):
    """TRL's trainer on rows that are ready: order, checkpoints, validation and failure are ours.

    `config` has the settings under their usual names (`TrainConfig.as_run`).
    """

    optimizer: Any
    data_collator: Any
    step_figures: tuple[str, ...] = ()
    """Logged with each step beside its loss."""
    validation_figures: tuple[str, ...] = ("validation_loss",)
    rate = ("train.learning_rate", "2e-4")
    """What the peak of the learning rate is called, and what is usual."""

    def __init__(
        self,
        model: peft.PeftModel,
        tokenizer: Any,
        train_rows: Any,
        validation_rows: Any,
        config: TrainConfig,
        checkpoints: Path,
    ) -> None:
        self.recipe = config
        rows = Packed(train_rows, config.max_length) if config.packing else train_rows
        steps = total_steps(len(rows), config)
        per_step = config.batch_size * config.gradient_accumulation
        order = training_order(rows.lengths, steps * per_step, config.batch_size, config.seed)
        self._tokens_until = np.cumsum(rows.tokens[order], dtype=np.int64)[per_step - 1 :: per_step]
        self.validation_rows = validation_rows
        patience = config.early_stopping
        self.best = None if patience is None else BestAdapter(checkpoints, patience)
        super().__init__(
            model=model,
            args=arguments(config, steps, checkpoints),
            train_dataset=Dataset.from_dict({"place": order}),
            processing_class=tokenizer,
            callbacks=[_Schedule(config, steps)],
        )
        self.collate = self._collator(self.data_collator)
        self.data_collator = _Picked(rows, self.collate)
        self.remove_callback(PrinterCallback)
        # TRL rounds adapters of quantized models to bfloat16, where updates below 1/256 of a weight are lost
        for _, weight in trainable(model):
            weight.data = weight.data.float()
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.get_base_model().forward).parameters
        self._head = plain_head(model, self.args.bf16) if self._keeps_logits else None

    @staticmethod
    def _collator(of_chats: Collator) -> Collator:
        """What makes a batch of rows. `of_chats`: TRL's own, of rows with `input_ids` and `labels`."""
        return of_chats

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["place"]

    def _together(self, rows: Any, places: Sequence[int]) -> dict[str, torch.Tensor]:
        """A batch of the rows at these places."""
        batch: dict[str, torch.Tensor] = self._prepare_inputs(self.collate([rows[k] for k in places]))
        return batch

    def before_training(self) -> None:
        """What has to be known before the first step, computed as the steps will be."""

    def _send_telemetry(self) -> None:
        """Nothing is sent anywhere."""

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The usual one; with `loraplus_lr_ratio` that of PEFT, in which B has a rate of its own."""
        ratio = self.recipe.loraplus_lr_ratio
        if ratio is None or self.optimizer is not None:
            optimizer: torch.optim.Optimizer = super().create_optimizer(model)
            return optimizer
        kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        decay = {"loraplus_weight_decay": self.args.weight_decay}
        self.optimizer = create_loraplus_optimizer(
            self.model, kind, loraplus_lr_ratio=ratio, **decay, **settings
        )
        return self.optimizer

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """A checkpoint needs no card."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """Mean negative log-likelihood of the assistant's tokens in `inputs` (batch, length), a scalar.

        TRL scores every position at once, which on a CPU costs more than the rest of a small model, and on a
        GPU more memory than a layer; so only the positions that precede a label are projected, and of many
        labels not all at once.
        """
        if not self._keeps_logits:
            loss: torch.Tensor = super().compute_loss(model, inputs, False, num_items_in_batch)
            return loss
        labels = inputs["labels"][:, 1:]
        kept = (labels != IGNORED).any(dim=0).nonzero().flatten()
        rest = {name: value for name, value in inputs.items() if name != "labels"}
        wanted = labels[:, kept].reshape(-1)
        taught = wanted != IGNORED
        if self._head is not None and len(wanted) * self._head.out_features > LOGITS_AT_ONCE:
            with without(self._head):
                hidden = model(**rest, use_cache=False, logits_to_keep=kept).logits
            total = summed_loss(hidden.flatten(0, 1)[taught], wanted[taught], self._head, self.args.bf16)
        else:
            logits = model(**rest, use_cache=False, logits_to_keep=kept).logits
            total = functional.cross_entropy(
                logits.reshape(-1, logits.size(-1)).float(), wanted, ignore_index=IGNORED, reduction="sum"
            )
        return total / (taught.sum() if num_items_in_batch is None else num_items_in_batch)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One forward and backward pass; raises `Diverged` before the optimizer can move on a bad loss."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise Diverged(self._why_diverged(f"the loss became {loss.item()}"))
        return loss

    def _why_diverged(self, what: str) -> str:
        step, rate, (called, usual) = self.state.global_step + 1, self.recipe.learning_rate, self.rate
        where = f"{what} at step {step} of {self.state.max_steps}"
        broken = [
            n for n, w in self.model.named_parameters() if not w.requires_grad and not w.isfinite().all()
        ]
        if broken:
            return f"{where}: the base's own weights hold NaN or infinity ({broken[0]}); use another base"
        if rate > 1e-3 and step > 1:
            return f"{where}: {called} is {rate:g}, usual is {usual}; lower it"
        if self.args.bf16:
            return (
                f"{where}, computed in bfloat16 on finite weights: try train.nf4.compute_dtype: float32, "
                "then look at the rows of this step"
            )
        return f"{where}, on finite weights: look for rows of one repeated token in the training split"

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Compute and log `validation_figures` over all validation rows."""
        model = self.model
        model.eval()
        with torch.no_grad(), self.compute_loss_context_manager():
            figures = self._validate()
        model.train()
        require_not_repacked(model)
        self._metrics["eval"].clear()
        self.log(figures)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, {})
        if self.best is not None and self.best.look(model, self.state.log_history):
            self.control.should_training_stop = True
        return {}

    def _validate(self) -> dict[str, float]:
        """Mean loss per assistant token, `validation_loss`."""
        total, count = 0.0, 0
        for places in self._batches(self.validation_rows):
            inputs = self._together(self.validation_rows, places)
            tokens = int((inputs["labels"][:, 1:] != IGNORED).sum())
            total += self.compute_loss(self.model, inputs, num_items_in_batch=1).item()
            count += tokens
        return {"validation_loss": total / count}

    def _batches(self, rows: Any) -> Iterator[list[int]]:
        """Places of rows that are read together, without gradients: the shortest first."""
        order, size = np.argsort(rows.lengths, kind="stable"), 2 * self.recipe.batch_size
        for start in range(0, len(order), size):
            yield order[start : start + size].tolist()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        broken = [name for name, weight in trainable(self.model) if not weight.isfinite().all()]
        if broken:
            raise Diverged(self._why_diverged(f"{len(broken)} adapter weights became NaN or infinite"))
        super()._save_checkpoint(model, trial)
        root = Path(self.args.output_dir)
        keep_only(root, root / f"checkpoint-{self.state.global_step}")
        if self.best is not None:
            self.best.forget_others(self.state.log_history)

    def tokens_seen(self, step: int) -> int:
        """Tokens without padding that the first `step` optimizer steps train on."""
        return int(self._tokens_until[step - 1]) if step else 0

    def history(self) -> list[dict[str, float]]:
        """One row per step (step, loss, learning_rate, tokens) and per evaluation (step, validation_loss)."""
        rows = []
        for entry in self.state.log_history:
            if "loss" in entry:
                kept = {key: entry[key] for key in ("step", "loss", "learning_rate", *self.step_figures)}
                rows.append({**kept, "tokens": self.tokens_seen(entry["step"])})
            elif "validation_loss" in entry:
                rows.append({key: entry[key] for key in ("step", *self.validation_figures)})
        return rows


class _Picked:
    """Reads the rows of a step, which TRL knows by their places, and collates them."""

    def __init__(self, rows: Any, collate: Collator) -> None:
        self._rows, self._collate = rows, collate

    def __call__(self, picked: Sequence[Mapping[str, int]]) -> dict[str, torch.Tensor]:
        return self._collate([self._rows[row["place"]] for row in picked])


class _Schedule(TrainerCallback):
    """When to evaluate and to save, and telling whoever watches."""

    def __init__(self, config: TrainConfig, steps: int) -> None:
        self.evaluate_at = set(config.validated_at(steps))
        self.save_every = config.checkpoint_every
        self.trainer: Trainer | None = None
        self.last = (time.monotonic(), 0)
        self.validation: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.last = (time.monotonic(), state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        has_rows = self.trainer is not None and len(self.trainer.validation_rows) > 0
        control.should_evaluate = has_rows and state.global_step in self.evaluate_at
        control.should_save = state.global_step % self.save_every == 0 and state.global_step < state.max_steps

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if self.trainer is None:
            return
        step, (then, before), self.last = state.global_step, self.last, (time.monotonic(), state.global_step)
        if "validation_loss" in logs:
            self.validation = {name: logs[name] for name in self.trainer.validation_figures}
        if "loss" in logs:
            tokens = self.trainer.tokens_seen(step) - self.trainer.tokens_seen(before)
            rate = tokens / max(self.last[0] - then, 1e-9)
            progress(
                step, state.max_steps, "steps", loss=logs["loss"], tokens_per_second=rate, **self.validation
            )


def fit(trainer: Trainer, resume: Path | None) -> None:
    """Train to the end, from the checkpoint `resume` if there is one.

    With `early_stopping` the model has the weights of the best validation loss then.
    """
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, _Schedule):
            callback.trainer = trainer
    # PEFT would cast what a layer reads to the adapter's 32 bits, and autocast those back to the same 16
    with disable_input_dtype_casting(trainer.model, active=trainer.args.bf16), fused_lora(trainer.model):
        trainer.before_training()
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    if trainer.best is not None:
        trainer.best.restore(trainer.model, trainer.state.log_history)
