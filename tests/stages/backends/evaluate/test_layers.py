"""Files that really are far from their parent: each matrix is looked at, and what is said was seen."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from flows.ladder.model import FailedCheck, RungEvidence
from registry.artifacts import QuantSpec
from stages.backends.evaluate.fidelity.layers import compare_layers
from stages.config.base import BaseConfig
from stages.config.evaluate import HeldoutTask
from stages.contract import Parent
from stages.formats.model_directory import ModelDirectory
from stages.quantization.distance import grid_of
from stages.quantization.gguf import GgufConfig
from stages.quantization.gptq import GptqConfig
from stages.quantization.method import Grid
from stages.resolve import resolve
from tests.conftest import as_parent
from tests.reliability import lineages
from tests.reliability.lineages import TOPICS, Lineage, copied, dataset

POOR = GptqConfig(bits=4, group_size=-1, calibration_rows=2)
"""Four bits, done honestly and badly: a scale for a whole row, two rows of calibration."""
SHARP = 600.0
"""Of the final norm: makes a random model as sure of its tokens as one that has learnt something."""
MODULES = 14


pytestmark = pytest.mark.usefixtures("one_thread")


def sharp(folder: Path, seed: int) -> Parent:
    found = as_parent(resolve({}, BaseConfig(source=f"pico:{seed}", dtype="float16"), folder), folder)
    change(folder, lambda tensors: tensors["model.norm.weight"].mul_(SHARP))
    return found


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="module")
def few_chats() -> Iterator[None]:
    """What is far is so in a few chats too; the answers of a random model say nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lineages, "CHATS", 10)
        patch.setattr(lineages, "TOKENS", 16)
        patch.setattr(lineages, "HELDOUT", HeldoutTask(name="routing", max_items=4, max_new_tokens=4))
        yield


@pytest.fixture(scope="module")
def line(few_chats: None, tmp_path_factory: pytest.TempPathFactory) -> Lineage:
    root = tmp_path_factory.mktemp("far")
    (root / "parent").mkdir()
    base = sharp(root / "parent", 0)
    return Lineage(root, base, dataset(root / "data", TOPICS), base, merged=base)


@pytest.fixture(scope="module")
def sound(line: Lineage) -> Parent:
    return line.quantize(POOR)


@pytest.fixture(scope="module")
def foreign(line: Lineage) -> Parent:
    """Made from other weights of the same shape, as a mixed-up directory would be."""
    (line.root / "other").mkdir()
    other = sharp(line.root / "other", 1)
    return Lineage(line.root, other, line.data, other, merged=other).quantize(POOR)


def double(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.0.mlp.down_proj.scales"].mul_(2)
    tensors["model.layers.1.self_attn.v_proj.scales"].mul_(2)


@pytest.fixture(scope="module")
def doubled(line: Lineage, sound: Parent) -> Parent:
    return copied(sound, line.fresh("doubled"), lambda folder: change(folder, double))


def measured(line: Lineage, file: Parent) -> tuple[dict[str, Any], tuple[FailedCheck, ...]]:
    """What the evaluation says of `file` beside its parent, and what the ladder finds."""
    branch = line.branch(0)
    branch.evidence.append(RungEvidence("merged", "merged", line.base.id))
    branch.rung_quantized(POOR.label, file)
    assert branch.evidence[-1].stopped is None, branch.evidence[-1].stopped
    return branch.evidence[-1].metrics["fidelity"]["fidelity"], branch.ladder.rungs[-1].findings


def test_a_sound_file_that_lost_much_is_not_called_another_models(line: Lineage, sound: Parent) -> None:
    entry, findings = measured(line, sound)
    assert entry["metrics"]["kl_mean"]["low"] > 0.3, "it is far: rounding and layers were looked at"
    rounding, layers = entry["rounding"], entry["layers"]
    assert (rounding["bits"], rounding["group_size"], rounding["ends"]) == (4, -1, False)
    assert (layers["compared"], layers["wrong"]) == (MODULES, [])
    assert 0.5 < layers["error"] / layers["rounding"] < 2
    within = entry["metrics"]["kl_mean"]["low"] <= rounding["kl_mean"]["high"]
    assert ("distance" in {one.check for one in findings}) != within
    for one in findings:
        assert (
            one.check not in {"distance"} or "its 14 compared matrices are those of merged but" in one.cause
        )


def test_a_damaged_file_is_named_by_its_matrices(line: Lineage, doubled: Parent) -> None:
    entry, findings = measured(line, doubled)
    assert entry["metrics"]["kl_mean"]["low"] > entry["rounding"]["kl_mean"]["high"], (
        "rounding cannot do that"
    )
    found = {one["module"]: one["share"] for one in entry["layers"]["wrong"]}
    assert found == {
        "model.layers.0.mlp.down_proj": pytest.approx(2, abs=0.1),
        "model.layers.1.self_attn.v_proj": pytest.approx(2, abs=0.1),
    }
    (said,) = (one for one in findings if one.check == "distance")
    assert said.cause.startswith("2 of 14 matrices are not those of merged, rounded: model.layers.")
    assert "_proj holds 2 times what it should" in said.cause
    assert said.next == "quantize again from merged"


def test_a_file_of_another_model_is_named_so(line: Lineage, foreign: Parent) -> None:
    entry, findings = measured(line, foreign)
    assert len(entry["layers"]["wrong"]) == MODULES
    assert max(abs(one["share"]) for one in entry["layers"]["wrong"]) < 0.1
    (said,) = (one for one in findings if one.check == "distance")
    assert said.cause.startswith(
        "its weights are not those of merged: none of 14 matrices is, down to rounding"
    )


def test_two_bits_are_no_damage(line: Lineage) -> None:
    file = line.quantize(GptqConfig(bits=2, group_size=64, calibration_rows=8))
    found = compare_layers(file.path, line.base.path, Grid(2, 64, ends=False))
    assert found is not None
    assert (found["compared"], found["wrong"]) == (MODULES, [])


def test_a_gguf_s_matrices_are_read_too(line: Lineage, foreign: Parent) -> None:
    """All but queries, keys and the ends: llama.cpp puts the first into another order."""
    file = line.quantize(GgufConfig(type="Q2_K"))
    assert file.quant is not None
    grid = grid_of(QuantSpec(method="gguf", requested=file.quant.requested))
    assert grid is not None
    right = compare_layers(file.path, line.base.path, grid)
    assert right is not None
    assert (right["compared"], right["wrong"]) == (10, [])
    wrong = compare_layers(file.path, line.root / "other", grid)
    assert wrong is not None
    assert len(wrong["wrong"]) == 10


def test_what_has_other_names_is_not_compared(line: Lineage, sound: Parent, tmp_path: Path) -> None:
    shutil.copytree(line.base.path, tmp_path / "renamed")
    names = ModelDirectory(tmp_path / "renamed").headers
    rename = {name: name.replace("model.layers", "blocks") for name in names}
    tensors = load_file(tmp_path / "renamed" / "model.safetensors")
    renamed = {rename[name]: tensor for name, tensor in tensors.items()}
    save_file(renamed, tmp_path / "renamed" / "model.safetensors", metadata={"format": "pt"})
    assert compare_layers(sound.path, tmp_path / "renamed", Grid(4, -1, ends=False)) is None
