"""Training on preferences: the paper's loss, what it is held against, and what survives a kill."""

from __future__ import annotations

import json
import logging
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import trl
from datasets import Dataset
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from stages.backends.chat import load_tokenizer
from stages.backends.train import lora, qlora
from stages.backends.train.dpo import DpoTrainer
from stages.backends.train.pairs import encode_pairs
from stages.backends.train.reference import REFERENCE, without_dropout
from stages.backends.train.rows import IGNORED
from stages.backends.train.trainer import fit
from stages.compatible import require_compatible
from stages.config.train import TrainConfig
from stages.config.train_preferences import DpoConfig
from stages.contract import Facts, Parent
from stages.errors import InvalidInput
from stages.memory import training_memory
from stages.model_shape import describe_base
from stages.train import train
from tests.conftest import as_parent
from tests.stages.preferring import likelihood, move, pair, sides, write_pairs


def settings(**changes: Any) -> TrainConfig:
    quick = {
        "method": "dpo",
        "nf4": {"compute_dtype": "float32"},
        "lora": {"rank": 4, "dropout": 0.05},
        "batch_size": 2,
        "gradient_accumulation": 2,
        "gradient_checkpointing": False,
        "max_steps": 4,
        "checkpoint_every": 2,
        "evaluations": 1,
        "learning_rate": 1e-3,
        "dpo": {"batch_size": 2, "gradient_accumulation": 2, "max_steps": 6, "learning_rate": 1e-3},
    }
    return TrainConfig.model_validate({**quick, **changes})


@pytest.fixture(scope="module")
def first(pico_base: Parent, pairs: Parent, tmp_path_factory: pytest.TempPathFactory) -> Parent:
    """The adapter of the recipe's first training."""
    out = tmp_path_factory.mktemp("first")
    return as_parent(train({"base": pico_base, "dataset": pairs}, settings().trainings[0], out), out)


@pytest.fixture(scope="module")
def preferring(
    pico_base: Parent, pairs: Parent, first: Parent, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Facts, Path]:
    out = tmp_path_factory.mktemp("preferring")
    return train({"base": pico_base, "dataset": pairs, "adapter": first}, settings(), out), out


# What comes out


def test_the_chosen_answers_become_likelier_than_the_rejected(preferring: tuple[Facts, Path]) -> None:
    facts, out = preferring
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    steps = [row for row in history if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    assert set(steps[0]) == {"step", "loss", "learning_rate", "tokens", "preferred", "margin"}
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-4), "it begins at its reference"
    assert abs(steps[0]["margin"]) < 1e-4
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert steps[-1]["preferred"] > 0.5
    validations = [row for row in history if "validation_loss" in row]
    assert [row["step"] for row in validations] == [3, 6]
    assert validations[1]["validation_loss"] < validations[0]["validation_loss"] < math.log(2)
    assert facts.metrics["validation_preferred"] == validations[1]["validation_preferred"] > 0.5
    assert facts.metrics["rows"] == 48
    assert steps[-1]["tokens"] == facts.metrics["tokens"]
    assert "checkpoints" not in {path.name for path in out.iterdir()}


def test_it_goes_on_from_the_first_adapter_and_says_so(
    preferring: tuple[Facts, Path], first: Parent, pico_base: Parent
) -> None:
    facts, out = preferring
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (first.path, out))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert not torch.equal(tensor, after[name]), name
        assert (tensor - after[name]).abs().max() < 0.05, name
    record = json.loads((out / "tuneline.json").read_text())
    assert record["start"] == {"id": first.id}
    assert record["dpo"] == settings().dpo.model_dump(mode="json")
    assert facts.quant == first.quant
    assert facts.metrics["outline"] == first.metrics["outline"]
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["inference_mode"]) == ("pico:0", True)
    require_compatible("train", settings(), {"base": pico_base, "adapter": as_parent(facts, out)})


# The loss


def trainer_on(base: Parent, pairs: Parent, out: Path, adapter: Path | None, **changes: Any) -> DpoTrainer:
    tokenizer, config = load_tokenizer(base.path), settings(**changes).as_run
    files = (pairs.path / "train.parquet", pairs.path / "validation.parquet")
    splits = (encode_pairs(file, tokenizer, 128, out) for file in files)
    model, _ = qlora.load_for_training(base.path, config, "dequantized", adapter)
    return DpoTrainer(model, tokenizer, *splits, config, out)


@pytest.fixture(scope="module")
def moved(
    pico_base: Parent, pairs: Parent, first: Parent, tmp_path_factory: pytest.TempPathFactory
) -> DpoTrainer:
    """A trainer whose reference is the first adapter, and whose adapter is another one by now."""
    trainer = trainer_on(pico_base, pairs, tmp_path_factory.mktemp("moved"), first.path)
    trainer.before_training()
    move(trainer.model)
    return trainer


def batch_of(trainer: DpoTrainer, places: list[int]) -> dict[str, torch.Tensor]:
    return trainer._together(trainer.pairs, places)


@pytest.mark.parametrize("parts", [True, False])
def test_the_loss_is_the_paper_s(
    moved: DpoTrainer, pico_base: Parent, first: Parent, parts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [3, 0, 7]
    reference, _ = qlora.load_for_training(pico_base.path, moved.recipe, "dequantized", first.path)
    reference.eval()
    model, pairs = moved.model.eval(), moved.pairs
    losses = []
    for place in places:
        ratios = [
            likelihood(model, *side) - likelihood(reference, *side).detach() for side in sides(pairs, place)
        ]
        losses.append(-functional.logsigmoid(0.1 * (ratios[0] - ratios[1])))
    expected = torch.stack(losses).mean()
    weights = [weight for _, weight in lora.trainable(model)]
    wanted = torch.autograd.grad(expected, weights)
    if not parts:
        monkeypatch.setattr(moved, "_head", None)
    found = moved.compute_loss(model, batch_of(moved, places))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(torch.autograd.grad(found, weights), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=1e-6)


def test_the_loss_is_trl_s(moved: DpoTrainer, pico_base: Parent, first: Parent, tmp_path: Path) -> None:
    """Of the same rows, the same start and the same moved adapter; TRL's reference is its own copy of it."""
    model, _ = qlora.load_for_training(pico_base.path, moved.recipe, "dequantized", first.path)
    without_dropout(model)
    theirs = trl.DPOTrainer(
        model,
        args=trl.DPOConfig(
            str(tmp_path), beta=0.1, bf16=False, gradient_checkpointing=False, report_to="none", use_cpu=True
        ),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": " b", "rejected": " c"}]),
        processing_class=load_tokenizer(pico_base.path),
    )
    ours = dict(lora.trainable(moved.model))
    copies = {name: weight for name, weight in model.named_parameters() if name in ours}
    for name, weight in copies.items():
        weight.data = ours[name].data.clone()
    batch = batch_of(moved, [3, 0, 7])
    read = {name: batch[name] for name in ("input_ids", "attention_mask")}
    expected = theirs.compute_loss(model, {**read, "completion_mask": (batch["labels"] != IGNORED).long()})
    found = moved.compute_loss(moved.model, batch)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    slopes = torch.autograd.grad(found, [ours[name] for name in copies])
    for slope, wanted in zip(slopes, torch.autograd.grad(expected, list(copies.values())), strict=True):
        torch.testing.assert_close(slope, wanted, rtol=1e-4, atol=1e-5)


def test_it_begins_with_the_very_weights_of_its_start(
    pico_base: Parent, pairs: Parent, first: Parent, tmp_path: Path
) -> None:
    """TRL would round them to bfloat16, and the reference would be another model than the first adapter."""
    trainer = trainer_on(pico_base, pairs, tmp_path, first.path)
    kept = load_file(first.path / "adapter_model.safetensors")
    for name, weight in lora.trainable(trainer.model):
        assert torch.equal(weight, kept[name.replace(".default", "")]), name


def test_a_fresh_adapter_is_held_against_the_base(pico_base: Parent, pairs: Parent, tmp_path: Path) -> None:
    trainer = trainer_on(pico_base, pairs, tmp_path, None, dpo={"start": "base", "batch_size": 2})
    trainer.before_training()
    assert trainer.reference.shape == (48 + 8, 2)
    with torch.no_grad(), trainer.model.disable_adapter():
        for place in (0, 5):
            base = [float(likelihood(trainer.model, *side)) for side in sides(trainer.pairs, place)]
            assert trainer.reference[place].tolist() == pytest.approx(base, rel=1e-4)


def test_the_reference_is_computed_once(
    pico_base: Parent, pairs: Parent, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tuneline.stage")
    trainer = trainer_on(pico_base, pairs, tmp_path, None, dpo={"start": "base"})
    trainer.before_training()
    known = np.load(tmp_path / REFERENCE)
    assert [r.progress["done"] for r in caplog.records if hasattr(r, "progress")][-1] == 56
    caplog.clear()
    np.save(tmp_path / REFERENCE, known + 1)
    trainer.before_training()
    assert not [record for record in caplog.records if hasattr(record, "progress")]
    assert np.array_equal(trainer.reference.numpy(), known + 1)
    for damaged in (b"", np.lib.format.magic(1, 0)):
        (tmp_path / REFERENCE).write_bytes(damaged)
        trainer.before_training()
        assert np.array_equal(trainer.reference.numpy(), known)


def test_dropout_is_off() -> None:
    layers = nn.Sequential(nn.Dropout(0.3), nn.Linear(2, 2), nn.ModuleDict({"default": nn.Dropout(0.05)}))
    without_dropout(layers)
    assert [m.p for m in layers.modules() if isinstance(m, nn.Dropout)] == [0.0, 0.0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_begins_at_its_reference_in_either_arithmetic(
    dtype: str, pico_base: Parent, pairs: Parent, first: Parent, tmp_path: Path
) -> None:
    changes = {"nf4": {"compute_dtype": dtype}, "dpo": {"max_steps": 1, "batch_size": 4}}
    trainer = trainer_on(pico_base, pairs, tmp_path, first.path, **changes)
    fit(trainer, None)
    assert trainer.history()[0]["loss"] == pytest.approx(
        math.log(2), abs=1e-4 if dtype == "float32" else 0.05
    )


# Killed and run again

CHILD = """
import logging, sys
from pathlib import Path
from stages.contract import Parent
from stages.train import TrainConfig, train
logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s", stream=sys.stdout)
base, dataset, adapter, config, out = sys.argv[1:]
parents = {"base": base, "dataset": dataset, "adapter": adapter}
parents = {role: Parent.model_validate_json(parent) for role, parent in parents.items()}
train(parents, TrainConfig.model_validate_json(config), Path(out))
"""


def test_a_killed_training_goes_on_to_the_same_bytes(
    pico_base: Parent,
    pairs: Parent,
    first: Parent,
    preferring: tuple[Facts, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    arguments = [parent.model_dump_json() for parent in (pico_base, pairs, first)]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments, settings().model_dump_json(), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdout is not None
    with child.stdout:
        for line in child.stdout:
            if line.startswith("tuneline.stage 5/6 steps"):
                child.kill()
                break
    assert child.wait() == -9
    assert (tmp_path / "checkpoints" / REFERENCE).is_file()
    caplog.set_level(logging.INFO, "tuneline.stage")
    facts = train({"base": pico_base, "dataset": pairs, "adapter": first}, settings(), tmp_path)
    told = [record.progress for record in caplog.records if hasattr(record, "progress")]
    assert [(event["unit"], event["done"]) for event in told] == [("steps", 5), ("steps", 6)]
    assert facts == preferring[0]
    for name in ("adapter_model.safetensors", "history.jsonl"):
        assert (tmp_path / name).read_bytes() == (preferring[1] / name).read_bytes(), name


# Refusals


def test_only_the_last_answers_are_compared(pico_base: Parent, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(pico_base.path)
    row = pair(random.Random(0))
    earlier = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    chosen = row["messages"][-1]["content"]
    data = write_pairs(tmp_path, [{**row, "messages": [*earlier, *row["messages"]]}])
    pairs = encode_pairs(data.path / "train.parquet", tokenizer, 128, tmp_path)
    both = sides(pairs, 0)
    for (_, labels), answer in zip(both, (chosen, row["rejected"]["content"]), strict=True):
        learned = tokenizer.decode([label for label in labels if label != IGNORED])
        assert learned == answer + tokenizer.eos_token
    assert pairs.tokens.tolist() == [sum(len(ids) for ids, _ in both)]
    assert pairs.lengths.tolist() == [max(len(ids) for ids, _ in both)]
    assert len(encode_pairs(tmp_path / "none.parquet", tokenizer, 128, tmp_path)) == 0
    with pytest.raises(InvalidInput, match=r"train\.parquet row 0 \(chosen\) has \d+ tokens, more than"):
        encode_pairs(data.path / "train.parquet", tokenizer, 8, tmp_path)


def test_what_cannot_be_trained_on_is_said(
    pico_base: Parent, pairs: Parent, first: Parent, tmp_path: Path
) -> None:
    chats = tmp_path / "chats"
    chats.mkdir()
    rows = pq.read_table(pairs.path / "train.parquet", columns=["messages"])
    pq.write_table(rows, chats / "train.parquet")
    parents = {"base": pico_base, "dataset": pairs, "adapter": first}
    with pytest.raises(InvalidInput, match=r"has one answer to each prompt.*prepare\.format: preferences"):
        train({**parents, "dataset": pairs.model_copy(update={"path": chats})}, settings(), tmp_path)
    with pytest.raises(InvalidInput, match=r"train\.dpo\.start is sft, and no adapter was given"):
        train({"base": pico_base, "dataset": pairs}, settings(), tmp_path)
    with pytest.raises(InvalidInput, match=r"the adapter has r 4 and not 8, .*make train\.lora the same"):
        train(parents, settings(lora={"rank": 8, "alpha": 16}), tmp_path)
    with pytest.raises(InvalidInput, match=r"is on other layers than train\.lora\.target_modules"):
        train(parents, settings(lora={"rank": 4, "target_modules": ["q_proj"]}), tmp_path)
    empty = tmp_path / "gguf"
    empty.mkdir()
    with pytest.raises(InvalidInput, match=r"has no adapter_config\.json, so it is not in PEFT's format"):
        train({**parents, "adapter": first.model_copy(update={"path": empty})}, settings(), tmp_path)


def test_an_adapter_with_a_template_of_its_own_is_refused(
    pico_base: Parent, pairs: Parent, first: Parent, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in first.path.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "chat_template.jinja").write_text("{{ messages }}")
    parents = {"base": pico_base, "dataset": pairs}
    with pytest.raises(InvalidInput, match=r"brings a tokenizer or a chat template of its own"):
        train({**parents, "adapter": first.model_copy(update={"path": other})}, settings(), tmp_path)


# What a recipe says


def test_supervised_training_keeps_its_keys() -> None:
    assert {"method", "dpo"}.isdisjoint(TrainConfig().model_dump(mode="json"))
    supervised, dpo = settings().trainings
    assert {"method", "dpo"}.isdisjoint(supervised.model_dump(mode="json"))
    assert TrainConfig.model_validate(dpo.model_dump(mode="json")) == dpo
    assert dpo.model_dump(mode="json")["method"] == "dpo"
    assert (supervised.label, dpo.label) == ("train adapter", "train on preferences")


def test_each_training_runs_with_its_own_settings() -> None:
    config = settings(packing=True)
    assert (config.as_run.learning_rate, config.as_run.max_steps, config.as_run.packing) == (1e-3, 6, False)
    assert (config.as_run.as_run, config.sequences) == (config.as_run, 4)
    supervised = config.trainings[0]
    assert (supervised.as_run, supervised.sequences, supervised.goes_on) == (supervised, 2, False)
    fresh = settings(dpo={"start": "base"})
    assert (fresh.trainings, fresh.goes_on, fresh.named_start) == ((fresh,), False, None)
    named = settings(dpo={"start": "support@3"})
    assert (named.trainings, named.goes_on, named.named_start) == ((named,), True, "support@3")


def test_dpo_without_its_method_is_refused() -> None:
    with pytest.raises(ValidationError, match="method is sft: set method: dpo, or take it out"):
        TrainConfig(dpo=DpoConfig(beta=0.5))


def test_a_pair_takes_the_memory_of_two_rows(pico_base: Parent) -> None:
    shape = describe_base(f"path:{pico_base.path}")
    pairs = settings(dpo={"batch_size": 2, "gradient_accumulation": 2})
    rows = TrainConfig.model_validate(
        {**pairs.model_dump(mode="json"), "method": "sft", "dpo": {}, "batch_size": 4}
    )
    for gpu in (True, False):
        ours, theirs = (training_memory(shape, config, 64, "packed", gpu) for config in (pairs, rows))
        assert ours == theirs
