"""A merge is read tensor by tensor: each way in which it is not base + adapter is told by its name."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.backends.evaluate.fidelity.weights import compare_weights
from stages.config.merge import MergeConfig
from stages.contract import Parent
from stages.merge import merge
from tests.stages.backends.merge.lora_models import save_adapter, save_llama

Tensors = dict[str, torch.Tensor]
Folders = tuple[Path, Path, Path]
MODULE = "model.layers.1.self_attn.o_proj"
EMPTY: dict[str, list[Any]] = {"wrong": [], "foreign": [], "missing": [], "added": [], "nonfinite": []}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A base with a head of its own, an adapter, and their merge into the 16-bit weights."""
    root = tmp_path_factory.mktemp("weights")
    base = save_llama(root / "base")
    adapter = save_adapter(base, root / "adapter")
    parents = {
        "base": Parent(id="b" * 64, kind="base", path=base),
        "adapter": Parent(id="a" * 64, kind="adapter", path=adapter),
    }
    (root / "merged").mkdir()
    merge(parents, MergeConfig(base="16bit"), root / "merged")
    return base, adapter, root / "merged"


def without_update(base: Path) -> Callable[[Tensors], Any]:
    original = load_file(base / "model.safetensors")[f"{MODULE}.weight"]
    return lambda tensors: tensors.update({f"{MODULE}.weight": original})


def noise(tensors: Tensors) -> None:
    tensors["model.embed_tokens.weight"] += 0.01


def cut(tensors: Tensors) -> None:
    tensors[f"{MODULE}.weight"] = tensors[f"{MODULE}.weight"][:, :32].contiguous()


def test_a_merge_is_its_base_and_adapter(folders: Folders) -> None:
    found = compare_weights(*folders, nf4=None)
    assert found == {"modules": 14, **EMPTY, "tied": False}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("no update", {"wrong": [{"module": MODULE, "share": 0.0}]}),
        (cut, {"wrong": [{"module": MODULE, "share": 0.0}]}),
        (noise, {"foreign": ["model.embed_tokens.weight"]}),
        (lambda tensors: tensors.pop("lm_head.weight"), {"missing": ["lm_head.weight"]}),
        (lambda tensors: tensors.update(extra=torch.zeros(2)), {"added": ["extra"]}),
        (
            lambda tensors: tensors[f"{MODULE}.weight"].fill_(math.nan),
            {"nonfinite": [f"{MODULE}.weight"]},
        ),
    ],
    ids=["a module not merged", "another shape", "another base", "missing", "added", "NaN"],
)
def test_what_differs_is_named(
    folders: Folders, tmp_path: Path, change: Any, expected: dict[str, Any]
) -> None:
    base, adapter, merged = folders
    shutil.copytree(merged, tmp_path / "merged")
    file = tmp_path / "merged" / "model.safetensors"
    tensors = load_file(file)
    (without_update(base) if change == "no update" else change)(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    found = compare_weights(base, adapter, tmp_path / "merged", nf4=None)
    assert {key: found[key] for key in EMPTY} == {**EMPTY, **expected}


def test_a_head_that_was_tied_is_told(folders: Folders, tmp_path: Path) -> None:
    base, adapter, merged = folders
    shutil.copytree(merged, tmp_path / "merged")
    config = tmp_path / "merged" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": True}))
    assert compare_weights(base, adapter, tmp_path / "merged", nf4=None)["tied"] is True
