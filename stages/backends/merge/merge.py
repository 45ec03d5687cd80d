"""Merge an adapter into 16-bit weights: plan, then stream tensors from disk to disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal, TypedDict

import torch

from registry.artifacts import digest
from registry.compat import peft
from stages.backends.merge.adapter import read_adapter
from stages.backends.merge.compute import MergedTensors
from stages.backends.merge.layout import layout
from stages.backends.merge.plan import Ingredients, MergePlan, make_plan
from stages.backends.merge.stream import write_tensors
from stages.backends.merge.unfinished import UnfinishedMerge
from stages.backends.safetensors import FileLayout, lay_out, model_files, write_index
from stages.backends.tokenizer import FILE, require_plain_reading, tokenizer_home
from stages.backends.unfinished import known_by
from stages.config.train import Nf4Config
from stages.errors import InvalidInput
from stages.formats.model_directory import ModelConfig, ModelDirectory
from stages.formats.model_files import INDEX, need_room, weight_files
from stages.outline import tokenizer_length

_TOKEN_LISTS = ("merges.txt", "special_tokens_map.json", "added_tokens.json")
TOKENIZER_PATTERNS = ("tokenizer*", "vocab.*", "chat_template*", *_TOKEN_LISTS)
COPIED_FILES = ("generation_config.json", "LICENSE*", "NOTICE*")


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

    Nothing is written before every tensor of both inputs is accounted for. Memory: some megabytes for each
    thread, or a few times the largest tensor where that has to be computed whole (NF4, DoRA, Conv1D, LoRA on
    an embedding). A merge of the same inputs goes on where a killed one left off. Returns the metrics.
    Raises `InvalidInput` naming the tensor or setting, `InsufficientResources` when the disk has no room.
    """
    config = _base_config(base)
    weights, adapter = model_files(base), read_adapter(adapter_dir)
    given = Ingredients(weights, layout(base), adapter, dtype, nf4 is not None)
    plan = make_plan(given)
    tokenizer_from = _tokenizer_home(plan, given, base, adapter_dir)
    files = lay_out([output.spec for output in plan.outputs], shard_size)
    _remove_weights(out)
    unfinished = UnfinishedMerge(out, _stamp(base, adapter_dir, files, dtype, nf4))
    tensors = MergedTensors(weights, adapter.tensors, nf4, torch.get_num_threads())
    try:
        missing = sum(file.size for file in files if unfinished.finished(file) is None)
        need_room(out, missing, "the merged model")
        largest = write_tensors(plan, files, tensors, unfinished)
        _copy_files(base, tokenizer_from, out)
        require_plain_reading(out)
    except BaseException:
        unfinished.discard()
        raise
    _write_config(config, plan, dtype, out)
    unfinished.publish(files)
    write_index(out, files)
    return _metrics(plan, largest, dtype, len(files))


def _stamp(base: Path, adapter: Path, files: list[FileLayout], dtype: str, nf4: Nf4Config | None) -> str:
    """Digest of what the files are made of, for a merge that goes on after a kill."""
    names = [base / "config.json", *weight_files(base), adapter / peft.CONFIG, adapter / peft.WEIGHTS]
    headers = [[file.name, file.header.decode("utf-8", "replace")] for file in files]
    how = [dtype, nf4.model_dump(mode="json") if nf4 else None, torch.__version__]
    return digest([known_by(names), headers, how])


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


def _metrics(plan: MergePlan, largest: float, dtype: str, shards: int) -> MergeMetrics:
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
        "bytes": sum(output.spec.bytes for output in plan.outputs),
        "shards": shards,
    }
