"""The training stage: rows, NF4 base and adapter brought together, trained, and written down."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import psutil
import torch
from torch import nn
from transformers import PreTrainedModel

from registry.artifacts import BaseReference, QuantSpec, digest
from registry.compat.shapes import KEY
from stages.backends import nf4
from stages.backends.arithmetic import effective
from stages.backends.chat import Tokenizer, load_tokenizer
from stages.backends.tokenizer import tokenizer_home
from stages.backends.train import lora
from stages.backends.train import trainer as sft
from stages.backends.train.checkpoints import discard, last_checkpoint
from stages.backends.train.dpo import DpoTrainer
from stages.backends.train.early_stopping import best_step
from stages.backends.train.kto import KtoTrainer
from stages.backends.train.labelled import encode_labelled
from stages.backends.train.orpo import OrpoTrainer
from stages.backends.train.packing import require_rows_apart
from stages.backends.train.pairs import encode_pairs
from stages.backends.train.rows import encode_split
from stages.config.train import TrainConfig
from stages.contract import Facts, Parent, Parents, toolchain
from stages.errors import InsufficientResources, InvalidInput
from stages.formats.model_files import TOKENIZER_FILES
from stages.memory import SHORT_ROWS, training_memory
from stages.model_shape import describe_base
from stages.outline import outline_of_adapter
from stages.training_record import HISTORY

TRAINERS: Mapping[str, Any] = {"sft": sft.Trainer, "dpo": DpoTrainer, "kto": KtoTrainer, "orpo": OrpoTrainer}
"""`train.method` → what trains so."""


def train_adapter(
    parents: Parents, config: TrainConfig, out: Path, version: int, tools: Mapping[str, str]
) -> Facts:
    """See `stages.train.train`; `version` and `tools`: of the stage, so that no other one goes on from its
    checkpoints."""
    base, dataset, start = parents["base"], parents["dataset"], _start(parents, config)
    asked, config = config, config.as_run
    if base.base is None:
        raise InvalidInput("the base artifact carries no base reference; resolve the base again")
    tokenizer = load_tokenizer(base.path)
    if start is not None:
        _require_same_reading(tokenizer, base.path, start, config)
    rows, validation = _encoded(dataset.path, tokenizer, config, out)
    if not len(rows):
        raise InvalidInput("the dataset's training split is empty; prepare more rows or hold out fewer")
    if config.early_stopping is not None and not len(validation):
        raise InvalidInput(
            "train.early_stopping stops by the validation loss, and the validation split is empty; hold rows "
            "out (prepare.split.validation), or take early_stopping out"
        )
    longest = config.max_length if config.packing else _longest(rows, validation)
    frozen = choose_frozen(base.path, config, longest)
    model, quantization = load_for_training(base.path, config, frozen, start.path if start else None)
    if config.packing:
        require_rows_apart(model)
    elif not torch.cuda.is_available() and longest <= SHORT_ROWS:
        model.get_base_model().set_attn_implementation("eager")
    inputs = [base.id, dataset.id, *([start.id] if start else [])]
    fingerprint = digest([version, *inputs, asked.model_dump(mode="json"), tools])
    checkpoints = out / "checkpoints"
    resume = last_checkpoint(checkpoints, fingerprint)
    trainer = TRAINERS[config.method](model, tokenizer, rows, validation, config, checkpoints)
    sft.fit(trainer, resume)
    quant = _quant_spec(config, frozen, quantization)
    _write_result(trainer, base, dataset, asked, quant, out, start)
    discard(checkpoints)
    return Facts(
        kind="adapter",
        base=base.base,
        quant=quant,
        metrics={**_metrics(trainer, rows, validation), KEY: outline_of_adapter(out)},
    )


def _start(parents: Parents, config: TrainConfig) -> Parent | None:
    """The adapter that is trained further, None for a fresh one. Raises `InvalidInput` where it misses."""
    start = parents.get("adapter")
    if config.goes_on and start is None:
        key, named = f"{config.section}.start", getattr(config, config.method).start
        raise InvalidInput(
            f"{key} is {named}, and no adapter was given to go on from; give one as adapter, or set "
            f"{key}: base"
        )
    return start if config.goes_on else None


def _longest(*splits: Any) -> int:
    """Tokens of the longest row."""
    return max(int(rows.lengths.max(initial=0)) for rows in splits)


def _encoded(dataset: Path, tokenizer: Tokenizer, config: TrainConfig, out: Path) -> tuple[Any, Any]:
    """The training and the validation split: `Rows`, `Labelled`, or `Pairs` where answers are compared."""
    encode: Any = {"sft": encode_split, "kto": encode_labelled}.get(config.method, encode_pairs)
    files = (dataset / "train.parquet", dataset / "validation.parquet")
    train, validation = (encode(file, tokenizer, config.max_length, out) for file in files)
    if config.method == "kto" and len(set(train.desirable.tolist())) == 1:
        called = "good" if train.desirable[0] else "bad"
        raise InvalidInput(
            f"every answer of the training split is called {called}, so there is nothing to tell it from; "
            f"prepare rows of both labels{', or set train.method: sft' if called == 'good' else ''}"
        )
    return train, validation


def _require_same_reading(tokenizer: Tokenizer, base: Path, start: Parent, config: TrainConfig) -> None:
    """Raise `InvalidInput` where an adapter has another tokenizer or chat template than its base."""
    home = tokenizer_home(base, start.path)
    if home == base:
        return
    other = load_tokenizer(home)
    if (other.get_vocab(), other.chat_template) != (tokenizer.get_vocab(), tokenizer.chat_template):
        raise InvalidInput(
            f"{config.section}.start: adapter {start.id[:12]} brings a tokenizer or a chat template of its "
            "own, by which the rows were not prepared; give an adapter that reads as its base does"
        )


def _quant_spec(config: TrainConfig, frozen: nf4.Frozen, measured: nf4.PackedLayers) -> QuantSpec:
    return QuantSpec(
        method="bnb",
        requested=config.nf4.model_dump(),
        effective={
            "quant_type": "nf4",
            "block_size": nf4.BLOCK_SIZE,
            "compute_dtype": str(effective(config.nf4.compute_dtype)).removeprefix("torch."),
            "frozen_weights": frozen,
            **measured,
        },
        toolchain=toolchain(("bitsandbytes", "torch", "transformers")),
    )


def load_for_training(
    base: Path, config: TrainConfig, frozen: nf4.Frozen, adapter: Path | None = None
) -> tuple[peft.PeftModel, nf4.PackedLayers]:
    """The base in NF4 with a fresh adapter or the given one, ready to train, and what its quantized layers
    really hold."""
    model: PreTrainedModel = nf4.load_nf4(base, config.nf4)
    quantization = nf4.effective_quantization(model)
    lora.adapted_layers(model, config.lora)
    model = prepared(model, config, frozen)
    if adapter is not None:
        return lora.attach_trained(model, adapter, config.lora, f"{config.section}.start"), quantization
    return lora.attach(model, config.lora, config.seed), quantization


def prepared(model: PreTrainedModel, config: TrainConfig, frozen: nf4.Frozen) -> PreTrainedModel:
    """A model as `nf4.load_nf4` returns it, ready for an adapter."""
    model = peft.prepare_model_for_kbit_training(
        model,
        use_gradient_checkpointing=config.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
    )
    _narrow_ends(model, effective(config.nf4.compute_dtype))
    if frozen == "dequantized":
        nf4.dequantize_in_place(model)
    return model


def _narrow_ends(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Hold embedding and head in the type that is computed in, which has all their values: 32 bits would only
    be rounded to it for each product. What the embedding answers stays in 32 bits, as residuals do."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if type(embedding) is nn.Embedding and type(head) is nn.Linear:
        tied = head.weight is embedding.weight
        embedding.weight.data, head.weight.data = embedding.weight.data.to(dtype), head.weight.data.to(dtype)
        if tied:
            head.weight = embedding.weight
        embedding.register_forward_hook(lambda module, read, answer: answer.float())


def choose_frozen(base: Path, config: TrainConfig, longest: int) -> nf4.Frozen:
    """How to hold the frozen weights. Raises `InsufficientResources` when no way fits into what is free
    beside this process."""
    available = (
        torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else psutil.virtual_memory().available
    )
    wanted: tuple[nf4.Frozen, ...]
    if config.frozen_weights == "auto":
        wanted = ("packed",) if torch.cuda.is_available() else ("dequantized", "packed")
    else:
        wanted = (config.frozen_weights,)
    needed, shape = 0, describe_base(f"path:{base}")
    for frozen in wanted:
        needed = training_memory(shape, config, longest, frozen, torch.cuda.is_available())
        if needed <= available:
            return frozen
    raise InsufficientResources(
        f"training needs about {needed / 1e9:.1f} GB of memory with {wanted[-1]} weights, rows of up to "
        f"{longest} tokens and batch_size {config.batch_size}; {available / 1e9:.1f} GB are free: lower "
        "batch_size (and raise gradient_accumulation), turn on gradient_checkpointing, or use shorter rows"
    )


def _write_result(
    trainer: sft.Trainer,
    base: Parent,
    dataset: Parent,
    config: TrainConfig,
    quant: QuantSpec,
    out: Path,
    start: Parent | None,
) -> None:
    reference: BaseReference = base.base  # type: ignore[assignment]
    lora.save_adapter(trainer.model, reference, out)
    for name in TOKENIZER_FILES:
        if (base.path / name).is_file():
            shutil.copyfile(base.path / name, out / name)
    record = {
        "base": {"id": base.id, **reference.model_dump(mode="json")},
        "dataset": {"id": dataset.id},
        "quant": quant.model_dump(mode="json"),
        "lora": config.lora.model_dump(mode="json"),
        "tokenizer": {
            "length": reference.tokenizer_length,
            "embedding_rows": reference.embedding_rows,
            "embedding_resized": False,
        },
    }
    if config.method != "sft":
        record |= {config.method: getattr(config, config.method).model_dump(mode="json")}
    if start is not None:
        record["start"] = {"id": start.id}
    (out / "tuneline.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    with (out / HISTORY).open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in trainer.history())


def _metrics(trainer: sft.Trainer, rows: Any, validation: Any) -> dict[str, object]:
    history = trainer.history()
    losses = [row["loss"] for row in history if "loss" in row]
    validations = [row for row in history if "validation_loss" in row]
    last = losses[-min(10, len(losses)) :]
    metrics: dict[str, object] = {
        "steps": trainer.state.global_step,
        "tokens": trainer.tokens_seen(trainer.state.global_step),
        "rows": len(rows),
        "validation_rows": len(validation),
        "train_loss_last_10_steps": math.fsum(last) / len(last),
        "validation_losses": [[row["step"], row["validation_loss"]] for row in validations],
        "trainable_parameters": sum(weight.numel() for _, weight in lora.trainable(trainer.model)),
    }
    if validations:
        kept = validations[-1]
        if trainer.best is not None:
            metrics["kept_step"] = best_step(history)
            kept = next(row for row in validations if row["step"] == metrics["kept_step"])
        metrics |= {name: kept[name] for name in trainer.validation_figures}
    return metrics
