"""Merge an adapter into 16-bit weights: plan, then stream one tensor at a time from disk to disk."""

from __future__ import annotations

import json
import logging
import shutil
import time
from pathlib import Path
from typing import Literal, TypedDict

import torch

from stages.backends.merge.adapter import Adapter, read_adapter
from stages.backends.merge.layout import ModuleKind, layout
from stages.backends.merge.plan import Ingredients, LowRank, MergePlan, Output, make_plan
from stages.backends.safetensors import DTYPES, TensorFiles, model_files, write_model
from stages.backends.tokenizer import FILE, require_plain_reading, tokenizer_home
from stages.config.train import Nf4Config
from stages.contract import progress
from stages.errors import InvalidInput
from stages.formats.model_directory import ModelConfig, ModelDirectory
from stages.formats.model_files import INDEX, need_room
from stages.outline import tokenizer_length

log = logging.getLogger("tuneline.merge")

_TOKEN_LISTS = ("merges.txt", "special_tokens_map.json", "added_tokens.json")
TOKENIZER_PATTERNS = ("tokenizer*", "vocab.*", "chat_template*", *_TOKEN_LISTS)
COPIED_FILES = ("generation_config.json", "LICENSE*", "NOTICE*")
FLOAT16_LARGEST = 65504.0


class MergeMetrics(TypedDict):
    """How many tensors were made in which way, and what the result is."""

    tensors_merged: int
    tensors_replaced: int
    tensors_copied: int
    tensors_rounded_to_nf4: int
    largest_absolute_value: float
    dtype: str
    tied_embeddings: bool
    parameters: int
    bytes: int
    shards: int


def merge_adapter(
    base: Path,
    adapter_dir: Path,
    out: Path,
    dtype: Literal["float16", "bfloat16"],
    nf4: Nf4Config | None,
    shard_size: int,
) -> MergeMetrics:
    """Write base + adapter as a Hugging Face directory under `out`; with `nf4`, into NF4-rounded weights.

    Nothing is written before every tensor of both inputs is accounted for. Memory: a few times the
    largest tensor (its 16-bit bytes, the float32 update, the 16-bit result). Returns the metrics.
    Raises `InvalidInput` naming the tensor or setting, `InsufficientResources` when the disk has no room.
    """
    config = _base_config(base)
    weights, adapter = model_files(base), read_adapter(adapter_dir)
    given = Ingredients(weights, layout(base), adapter, dtype, nf4 is not None)
    plan = make_plan(given)
    tokenizer_from = _tokenizer_home(plan, given, base, adapter_dir)
    size = sum(output.spec.bytes for output in plan.outputs)
    _remove_weights(out)
    need_room(out, size, "the merged model")
    stream = _Stream(plan, weights, adapter, nf4)
    try:
        shards = write_model(out, [output.spec for output in plan.outputs], shard_size, stream.produce)
    except BaseException:
        _remove_weights(out)
        raise
    _copy_files(base, tokenizer_from, out)
    require_plain_reading(out)
    _write_config(config, plan, dtype, out)
    return _metrics(plan, stream.largest, dtype, size, len(shards))


class _Stream:
    """Computes the tensors of a plan on demand and keeps the largest absolute value seen."""

    def __init__(self, plan: MergePlan, base: TensorFiles, adapter: Adapter, nf4: Nf4Config | None) -> None:
        self.largest = 0.0
        self._outputs = {output.spec.name: output for output in plan.outputs}
        self._base, self._adapter, self._nf4 = base, adapter.tensors, nf4
        self._total = sum(output.spec.bytes for output in plan.outputs)
        self._bytes, self._count, self._start = 0, 0, time.monotonic()

    def produce(self, name: str) -> torch.Tensor:
        output = self._outputs[name]
        result = self._compute(output)
        self._bytes += output.spec.bytes
        self._count += 1
        rate = self._bytes / 1e6 / max(time.monotonic() - self._start, 1e-6)
        progress(self._count, len(self._outputs), "tensors", megabytes_per_second=rate)
        return result

    def _compute(self, output: Output) -> torch.Tensor:
        if output.replacement:
            weight = self._adapter.read(output.replacement)
        else:
            weight = self._base.read(output.source)
        if not weight.is_floating_point():
            return weight
        if output.round_trip and self._nf4:
            weight = as_trained_on(weight, output.round_trip, self._nf4)
        if output.low_rank:
            weight = _add_low_rank(weight, output.low_rank, self._adapter)
        if output.bias:
            key, scale = output.bias
            weight = weight.float() + self._adapter.read(key).float() * scale
        self._check(output, weight)
        return weight.to(DTYPES[output.spec.dtype])

    def _check(self, output: Output, weight: torch.Tensor) -> None:
        if not weight.numel():
            return
        low, high = torch.aminmax(weight)
        # aminmax gives NaN when any value is NaN; max() of Python would lose it
        reach = torch.stack([low.abs(), high.abs()]).max().item()
        if not reach < float("inf"):
            raise InvalidInput(self._blame(output))
        if output.spec.dtype == "F16" and reach > FLOAT16_LARGEST:
            raise InvalidInput(
                f"tensor {output.spec.name} reaches {reach:.6g}, above the largest float16 number "
                f"{FLOAT16_LARGEST:.0f}; merge to bfloat16 instead (merge.dtype: bfloat16)"
            )
        self.largest = max(self.largest, reach)

    def _blame(self, output: Output) -> str:
        term = output.low_rank
        factors = (term.a, term.b, term.magnitude) if term else ()
        keys = (output.replacement, *factors, output.bias[0] if output.bias else None)
        named = [(f"adapter tensor {key}", self._adapter, key) for key in keys if key]
        if not output.replacement:
            named.append((f"base tensor {output.source}", self._base, output.source))
        guilty = [words for words, files, key in named if not torch.isfinite(files.read(key)).all()]
        cause = (
            f"{guilty[0]} already holds such values: that file is damaged or its training diverged"
            if guilty
            else "base and adapter are finite, their sum is not: the adapter's training diverged"
        )
        return f"tensor {output.spec.name} would hold NaN or infinite values; {cause}"


def low_rank_update(term: LowRank, adapter: TensorFiles) -> torch.Tensor:
    """scale · B·A in float32, laid out as the weight is stored."""
    update = (adapter.read(term.b).float() @ adapter.read(term.a).float()).mul_(term.scale)
    return update.T if term.transposed else update


def _add_low_rank(weight: torch.Tensor, term: LowRank, adapter: TensorFiles) -> torch.Tensor:
    """W + scale · B·A in float32 (then DoRA's rescaling); the product is the only float32 copy."""
    merged = low_rank_update(term, adapter).add_(weight)
    if term.magnitude:
        inputs, column = (0, (1, -1)) if term.transposed else (1, (-1, 1))
        norm = torch.linalg.vector_norm(merged, dim=inputs)
        merged *= (adapter.read(term.magnitude).float() / norm).view(column)
    return merged


def as_trained_on(weight: torch.Tensor, kind: ModuleKind, nf4: Nf4Config) -> torch.Tensor:
    """The NF4 values that training saw; transformers quantizes a Conv1D's weight (in, out) as (out, in)."""
    from stages.backends.nf4 import nf4_round_trip

    return nf4_round_trip(weight.T, nf4).T if kind == "conv1d" else nf4_round_trip(weight, nf4)


def _remove_weights(out: Path) -> None:
    """`out` is the stage's own: weights in it are left from a run that died; they must not join new ones."""
    for stale in [*out.glob("model*.safetensors"), *out.glob(INDEX)]:
        stale.unlink()


def _base_config(base: Path) -> ModelConfig:
    config = ModelDirectory(base).config
    if quantization := config.get("quantization_config"):
        method = quantization.get("quant_method", "unknown method")
        raise InvalidInput(
            f"{base} is quantized ({method}); an adapter is never merged into quantized weights, the tune "
            "would be lost in rounding: give the 16-bit base model"
        )
    return config


def _tokenizer_home(plan: MergePlan, given: Ingredients, base: Path, adapter: Path) -> Path:
    """The directory whose tokenizer and chat template the merged model gets, as everywhere; refused where the
    embedding has no row for one of its ids."""
    home = tokenizer_home(base, adapter)
    if plan.rows is not None and home == base:
        raise InvalidInput(
            f"{adapter} resizes the embedding to {plan.rows} rows but carries no tokenizer for them; save "
            "the tokenizer it was trained with into the adapter's directory"
        )
    stored = given.layout.stored(f"{given.layout.input_embedding}.weight", given.base)
    rows = plan.rows or (given.base.spec(stored).shape[0] if stored else None)
    ids = tokenizer_length(json.loads((home / FILE).read_text("utf-8"))) if (home / FILE).is_file() else None
    if home != base and rows is not None and ids is not None and ids > rows:
        raise InvalidInput(
            f"the tokenizer beside {adapter} has {ids} token ids, but the embedding has only {rows} rows, so "
            "some tokens have no vector; train the added rows too (modules_to_save: the embeddings), or "
            "remove the tokenizer from the adapter's directory if it was trained with the base's"
        )
    return home


def _copy_files(base: Path, tokenizer_from: Path, out: Path) -> None:
    tokenizer = [file for pattern in TOKENIZER_PATTERNS for file in tokenizer_from.glob(pattern)]
    others = [file for pattern in COPIED_FILES for file in base.glob(pattern)]
    for file in filter(Path.is_file, [*tokenizer, *others]):
        shutil.copyfile(file, out / file.name)


def _write_config(config: ModelConfig, plan: MergePlan, dtype: str, out: Path) -> None:
    text = config.get("text_config")
    for section in [config, *([text] if isinstance(text, dict) else [])]:
        # transformers 4 reads torch_dtype, transformers 5 dtype
        section["dtype"] = section["torch_dtype"] = dtype
        section["tie_word_embeddings"] = plan.tied
        if plan.rows is not None:
            section["vocab_size"] = plan.rows
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _metrics(plan: MergePlan, largest: float, dtype: str, size: int, shards: int) -> MergeMetrics:
    changed = [output for output in plan.outputs if output.low_rank or output.bias]
    replaced = [output for output in plan.outputs if output.replacement and output not in changed]
    return {
        "tensors_merged": len(changed),
        "tensors_replaced": len(replaced),
        "tensors_copied": len(plan.outputs) - len(changed) - len(replaced),
        "tensors_rounded_to_nf4": sum(bool(output.round_trip) for output in plan.outputs),
        "largest_absolute_value": largest,
        "dtype": dtype,
        "tied_embeddings": plan.tied,
        "parameters": sum(output.spec.elements for output in plan.outputs),
        "bytes": size,
        "shards": shards,
    }
