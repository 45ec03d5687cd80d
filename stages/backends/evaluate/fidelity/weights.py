"""Is a merged model what its base and its adapter make together? Read tensor by tensor, not believed.

For each module that the adapter changes: how much of the update arrived, the projection
⟨W' − W, ΔW⟩ / ⟨ΔW, ΔW⟩, which is 1 but for the rounding to 16 bits. Every other tensor must be the base's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from registry.evaluation_results import MergedWeights, ModuleShare
from stages.backends.merge.adapter import read_adapter
from stages.backends.merge.compute import as_trained_on, low_rank_update
from stages.backends.merge.layout import layout
from stages.backends.merge.plan import Ingredients, Output, make_plan
from stages.backends.safetensors import DTYPES, TensorFiles, model_files
from stages.config.train import Nf4Config
from stages.contract import progress
from stages.families.config_names import text_config
from stages.formats.model_directory import ModelDirectory

TOLERANCE = 0.1
"""Of the share that arrived; rounding to float16 moves it by less than 0.01 on the models measured."""


def compare_weights(base: Path, adapter: Path, merged: Path, nf4: Nf4Config | None) -> MergedWeights:
    """`merged` against `base` + `adapter`; with `nf4`, against the base's weights after an NF4 round trip.

    Memory: a few times the largest tensor.
    """
    source, merged_files, changes = model_files(base), model_files(merged), read_adapter(adapter)
    dtype: Literal["float16", "bfloat16"] = (
        "bfloat16" if any(spec.dtype == "BF16" for spec in merged_files.specs()) else "float16"
    )
    plan = make_plan(Ingredients(source, layout(base), changes, dtype, nf4 is not None))
    wrong: list[ModuleShare] = []
    foreign, nonfinite = [], []
    modules = 0
    for done, output in enumerate(plan.outputs, start=1):
        progress(done, len(plan.outputs), "tensors compared")
        name = output.spec.name
        if name not in merged_files:
            continue
        ours = merged_files.read(name)
        if ours.is_floating_point() and not bool(torch.isfinite(ours).all()):
            nonfinite.append(name)
        elif output.low_rank and not output.low_rank.magnitude:
            modules += 1
            share = _arrived(output, ours, source, changes.tensors, nf4)
            if share is not None and abs(share - 1) > TOLERANCE:
                wrong.append({"module": name.removesuffix(".weight"), "share": round(share, 3)})
        elif not (output.replacement or output.bias or output.low_rank) and not _equal(
            ours, output, source, nf4
        ):
            foreign.append(name)
    planned = {output.spec.name for output in plan.outputs}
    return {
        "modules": modules,
        "wrong": wrong,
        "foreign": foreign,
        "missing": sorted(planned - set(merged_files)),
        "added": sorted(set(merged_files) - planned),
        "nonfinite": nonfinite,
        "tied": _ties(merged) and not plan.tied,
    }


def _ties(folder: Path) -> bool:
    config = text_config(ModelDirectory(folder).config, str(folder))
    return bool(config.get("tie_word_embeddings"))


def _arrived(
    output: Output, ours: torch.Tensor, base: TensorFiles, adapter: TensorFiles, nf4: Nf4Config | None
) -> float | None:
    assert output.low_rank is not None
    update = low_rank_update(output.low_rank, adapter)
    before = _before(output, base, nf4).float()
    size = float((update * update).sum())
    if ours.shape != before.shape:
        return 0.0
    return float(((ours.float() - before) * update).sum()) / size if size else None


def _before(output: Output, base: TensorFiles, nf4: Nf4Config | None) -> torch.Tensor:
    weight = base.read(output.source)
    return as_trained_on(weight, output.round_trip, nf4) if output.round_trip and nf4 else weight


def _equal(ours: torch.Tensor, output: Output, base: TensorFiles, nf4: Nf4Config | None) -> bool:
    expected = _before(output, base, nf4)
    if expected.is_floating_point():
        expected = expected.to(DTYPES[output.spec.dtype])
    return bool(torch.equal(ours, expected))


def nonfinite_tensors(folder: Path) -> list[str]:
    """Names of the tensors of a Hugging Face directory that hold NaN or infinite values."""
    files = model_files(folder)
    return [
        name
        for name in files
        if (tensor := files.read(name)).is_floating_point() and not bool(tensor.isfinite().all())
    ]
