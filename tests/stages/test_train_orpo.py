"""Training on preferences without a reference: the paper's loss in float64, and what comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from stages.backends.chat import load_tokenizer
from stages.backends.train import lora, qlora
from stages.backends.train.orpo import OrpoTrainer, odds_ratio_losses
from stages.backends.train.pair_trainer import PairTrainer
from stages.backends.train.pairs import encode_pairs
from stages.config.train import TrainConfig
from stages.config.train_preferences import OrpoConfig
from stages.contract import Parent
from stages.memory import training_memory
from stages.model_shape import describe_base
from stages.train import train
from tests.stages.preferring import likelihood, move, sides


def settings(**changes: Any) -> TrainConfig:
    quick = {
        "method": "orpo",
        "nf4": {"compute_dtype": "float32"},
        "lora": {"rank": 4, "dropout": 0},
        "batch_size": 2,
        "gradient_accumulation": 2,
        "gradient_checkpointing": False,
        "max_steps": 8,
        "evaluations": 1,
        "learning_rate": 3e-3,
        "orpo": {"weight": 0.5},
    }
    return TrainConfig.model_validate({**quick, **changes})


def by_the_paper(means: torch.Tensor, weight: float) -> torch.Tensor:
    chosen, rejected = means.exp().T
    odds_ratio = (chosen / (1 - chosen)) / (rejected / (1 - rejected))
    return -chosen.log() - weight * torch.log(1 / (1 + 1 / odds_ratio))


def test_the_loss_is_the_paper_s_in_float64() -> None:
    draw = torch.Generator().manual_seed(0)
    means = -5 * torch.rand(50, 2, dtype=torch.float64, generator=draw) - 1e-3
    means.requires_grad_()
    losses, margins = odds_ratio_losses(means, 0.3)
    expected = by_the_paper(means, 0.3)
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=1e-12)
    found, wanted = (torch.autograd.grad(some.sum(), means)[0] for some in (losses, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    assert torch.equal(margins > 0, means[:, 0] > means[:, 1])


def test_answers_without_any_doubt_have_a_loss_too() -> None:
    means = torch.tensor([[0.0, -300.0], [-300.0, 0.0], [0.0, 0.0]], requires_grad=True)
    losses, _ = odds_ratio_losses(means, 0.1)
    (slopes,) = torch.autograd.grad(losses.sum(), means)
    assert losses.isfinite().all()
    assert slopes.isfinite().all()


def test_a_batch_has_the_mean_of_its_pairs(pico_base: Parent, pairs: Parent, tmp_path: Path) -> None:
    tokenizer, config = load_tokenizer(pico_base.path), settings().as_run
    files = (pairs.path / "train.parquet", pairs.path / "validation.parquet")
    rows, validation = (encode_pairs(file, tokenizer, 128, tmp_path) for file in files)
    model, _ = qlora.load_for_training(pico_base.path, config, "dequantized")
    trainer = OrpoTrainer(model, tokenizer, rows, validation, config, tmp_path)
    move(model)
    model.eval()
    places = [3, 0, 7]
    means = []
    for place in places:
        for ids, labels in sides(rows, place):
            answer = sum(label >= 0 for label in labels[1:])
            means.append(likelihood(model, ids, labels).double() / answer)
    expected = by_the_paper(torch.stack(means).view(-1, 2), 0.5).mean().float()
    found = trainer.compute_loss(model, trainer._together(rows, places))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weights = [weight for _, weight in lora.trainable(model)]
    wanted = torch.autograd.grad(expected, weights)
    for ours, theirs in zip(torch.autograd.grad(found, weights), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_chosen_answers_are_learned_and_preferred(
    pico_base: Parent, pairs: Parent, tmp_path: Path
) -> None:
    facts = train({"base": pico_base, "dataset": pairs}, settings(), tmp_path)
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    steps = [row for row in history if "loss" in row]
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert facts.metrics["validation_preferred"] > 0.5
    assert facts.metrics["rows"] == 48
    record = json.loads((tmp_path / "tuneline.json").read_text())
    assert record["orpo"] == {"weight": 0.5}
    assert "start" not in record


def test_it_is_one_training_of_pairs(pico_base: Parent) -> None:
    config = settings()
    assert (config.trainings, config.goes_on, config.sequences) == ((config,), False, 4)
    assert config.label == "train on preferences"
    supervised = TrainConfig.model_validate(
        {**config.model_dump(mode="json"), "method": "sft", "orpo": {}, "batch_size": 4}
    )
    shape = describe_base(f"path:{pico_base.path}")
    assert PairTrainer.__abstractmethods__ == {"_losses"}, "all else is the same of every method on pairs"
    for gpu in (True, False):
        ours, theirs = (training_memory(shape, some, 64, "packed", gpu) for some in (config, supervised))
        assert ours == theirs


def test_what_would_be_left_out_is_refused() -> None:
    with pytest.raises(ValidationError, match="method is sft: set method: orpo, or take it out"):
        TrainConfig(orpo=OrpoConfig(weight=0.5))
    with pytest.raises(ValidationError, match="method: orpo packs no pairs: take packing out"):
        settings(packing=True)
    with pytest.raises(ValidationError, match=r"neftune_noise_alpha is for supervised training"):
        TrainConfig.model_validate({"method": "dpo", "dpo": {"start": "base"}, "neftune_noise_alpha": 5})
    assert {"orpo", "loraplus_lr_ratio", "neftune_noise_alpha"}.isdisjoint(TrainConfig().model_dump())
