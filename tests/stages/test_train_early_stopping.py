"""Early stopping: the adapter of the best validation loss, also of a training that was killed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from stages.backends.train import trainer as sft
from stages.backends.train.lora import trainable
from stages.config.train import TrainConfig
from stages.contract import Facts, Parent
from stages.errors import InvalidInput
from stages.train import train
from tests.stages.test_train import chat, settings, write_dataset

LOSSES = {1: 3.0, 2: 2.0, 3: 2.5, 4: float("nan"), 5: 1.0}
KILLED = "killed"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Parent:
    draw = random.Random(0)
    return write_dataset(tmp_path_factory.mktemp("dataset"), [chat(draw) for _ in range(24)])


@pytest.fixture
def fit(
    pico_base: Parent, dataset: Parent, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Facts, dict[int, dict[str, torch.Tensor]]]]:
    """Trains up to 8 steps with the validation losses `LOSSES`; the facts, and the weights at each."""

    def run(out: Path, dies_at: int = 0, **changes: Any) -> Any:
        weights: dict[int, dict[str, torch.Tensor]] = {}

        def validate(trainer: sft.Trainer) -> dict[str, float]:
            step = trainer.state.global_step
            if step == dies_at:
                raise RuntimeError(KILLED)
            weights[step] = {name: weight.detach().clone() for name, weight in trainable(trainer.model)}
            return {"validation_loss": LOSSES[step]}

        monkeypatch.setattr(sft.Trainer, "_validate", validate)
        quick = {"max_steps": 8, "evaluations": 7, "early_stopping": 2, "checkpoint_every": 3, **changes}
        return train({"base": pico_base, "dataset": dataset}, settings(**quick), out), weights

    return run


def tensors(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "adapter_model.safetensors")


def test_it_stops_and_keeps_the_best(fit: Any, tmp_path: Path) -> None:
    facts, weights = fit(tmp_path)
    assert (facts.metrics["steps"], facts.metrics["kept_step"], facts.metrics["validation_loss"]) == (
        4,
        2,
        2.0,
    )
    kept = tensors(tmp_path)
    for name, weight in weights[2].items():
        assert torch.equal(kept[name.replace(".default", "")], weight), name
    assert any(not torch.equal(weights[4][name], weight) for name, weight in weights[2].items())
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history if "loss" in row] == [1, 2, 3, 4]
    assert not list(tmp_path.rglob("best-*")), "what was kept beside the checkpoints goes with them"


def test_with_more_patience_a_later_loss_is_the_best(fit: Any, tmp_path: Path) -> None:
    facts, _ = fit(tmp_path, early_stopping=3, max_steps=5, evaluations=4)
    assert (facts.metrics["steps"], facts.metrics["kept_step"]) == (5, 5)


@pytest.mark.parametrize(("dies_at", "checkpoint_every"), [(4, 3), (4, 1), (3, 2), (2, 1)])
def test_a_killed_training_ends_with_the_same_adapter(
    fit: Any, tmp_path: Path, dies_at: int, checkpoint_every: int
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    expected, _ = fit(whole, checkpoint_every=checkpoint_every)
    with pytest.raises(RuntimeError, match=KILLED):
        fit(broken, dies_at=dies_at, checkpoint_every=checkpoint_every)
    assert list(broken.glob("checkpoints/best-*"))
    facts, _ = fit(broken, checkpoint_every=checkpoint_every)
    assert facts == expected
    for name in ("adapter_model.safetensors", "history.jsonl"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name


def test_without_validation_rows_it_is_refused(pico_base: Parent, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", [chat(random.Random(0))], validation=0)
    config = settings(evaluations=2, early_stopping=1)
    with pytest.raises(InvalidInput, match=r"the validation split is empty; hold rows out"):
        train({"base": pico_base, "dataset": data}, config, tmp_path)


def test_a_patience_that_can_stop_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="come before the last: nothing could be stopped"):
        settings(evaluations=1, early_stopping=2)
    assert "early_stopping" not in TrainConfig().model_dump(), "adapters from before keep their keys"
