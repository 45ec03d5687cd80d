"""Training on answers that are each called good or bad: the paper's loss, TRL's, and what comes out."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import trl
from datasets import Dataset
from pydantic import ValidationError

from stages.backends.chat import load_tokenizer
from stages.backends.train import lora, qlora
from stages.backends.train.kto import KtoTrainer
from stages.backends.train.labelled import AfterOtherPrompts, encode_labelled
from stages.backends.train.reference import REFERENCE, without_dropout
from stages.backends.train.rows import IGNORED
from stages.config.train import TrainConfig
from stages.config.train_preferences import KtoConfig
from stages.contract import Parent
from stages.errors import InvalidInput
from stages.formats.splits import undesirable
from stages.memory import training_memory
from stages.model_shape import describe_base
from stages.train import train
from tests.stages.preferring import ROW, likelihood, move, pair

BATCH = [3, 0, 30, 7]
"""Places of a batch: good, good, bad, good."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Parent:
    """24 good answers and 16 bad ones to train on, and 6 of each for validation."""
    folder, draw = tmp_path_factory.mktemp("labelled"), random.Random(0)
    schema = pa.schema([ROW.field("messages")])
    for split, good, bad in (("train", 24, 16), ("validation", 6, 6)):
        rows = [pair(draw) for _ in range(good + bad)]
        chats = [row["messages"] for row in rows[:good]]
        others = [[row["messages"][0], row["rejected"]] for row in rows[good:]]
        file = folder / f"{split}.parquet"
        for part, some in ((file, chats), (undesirable(file), others)):
            pq.write_table(pa.Table.from_pylist([{"messages": chat} for chat in some], schema), part)
    return Parent(id="6" * 64, kind="dataset", path=folder)


def settings(**changes: Any) -> TrainConfig:
    quick = {
        "method": "kto",
        "nf4": {"compute_dtype": "float32"},
        "lora": {"rank": 4, "dropout": 0.05},
        "gradient_checkpointing": False,
        "evaluations": 1,
        "kto": {
            "start": "base",
            "batch_size": 4,
            "gradient_accumulation": 1,
            "learning_rate": 3e-3,
            "desirable_weight": 1.3,
            "undesirable_weight": 0.7,
        },
    }
    return TrainConfig.model_validate({**quick, **changes})


@pytest.fixture(scope="module")
def moved(pico_base: Parent, dataset: Parent, tmp_path_factory: pytest.TempPathFactory) -> KtoTrainer:
    """A trainer whose reference is the base, and whose adapter is one that changes it by now."""
    tokenizer, config = load_tokenizer(pico_base.path), settings().as_run
    files = (dataset.path / "train.parquet", dataset.path / "validation.parquet")
    out = tmp_path_factory.mktemp("moved")
    rows, validation = (encode_labelled(file, tokenizer, 128, out) for file in files)
    model, _ = qlora.load_for_training(pico_base.path, config, "dequantized")
    trainer = KtoTrainer(model, tokenizer, rows, validation, config, out)
    trainer.before_training()
    # the batch of the test: with a place in the order, its answers after each other's prompts are known
    trainer.mixed_place = {pair: place for place, pair in enumerate(others(BATCH))}
    mixed = AfterOtherPrompts(rows, others(BATCH))
    trainer.splits = (rows, validation, mixed, trainer.splits[3])
    with torch.no_grad(), model.disable_adapter():
        known = [likelihood(model, *row) for row in ids_and_labels(mixed)]
    trainer.reference = (*trainer.reference[:2], torch.stack(known), trainer.reference[3])
    move(model)
    model.eval()
    return trainer


def others(places: list[int]) -> list[tuple[int, int]]:
    return [(place, places[k - 1]) for k, place in enumerate(places)]


def ids_and_labels(rows: Any) -> list[tuple[list[int], list[int]]]:
    both = (rows[place] for place in range(len(rows)))
    return [(row["input_ids"].tolist(), row["labels"].tolist()) for row in both]


def batch_of(trainer: KtoTrainer) -> dict[str, torch.Tensor]:
    return trainer._together(trainer.splits[0], BATCH)


def test_the_loss_is_the_paper_s(moved: KtoTrainer) -> None:
    model, rows = moved.model, ids_and_labels(moved.splits[0])

    def gained(ids: list[int], labels: list[int]) -> torch.Tensor:
        with torch.no_grad(), model.disable_adapter():
            before = likelihood(model, ids, labels)
        return likelihood(model, ids, labels) - before

    spoken = []
    for ids, labels in rows:
        first = next(place for place, label in enumerate(labels) if label != IGNORED)
        spoken.append((ids[:first], [label for label in labels if label != IGNORED]))
    mixed = []
    for asked, answered in others(BATCH):
        prompt, answer = spoken[asked][0], spoken[answered][1]
        mixed.append(gained(prompt + answer, [IGNORED] * len(prompt) + answer))
    z = torch.stack(mixed).mean().detach().clamp(min=0)
    losses = []
    for place in BATCH:
        r = gained(*rows[place])
        value = torch.sigmoid(0.1 * (r - z) if place < 24 else 0.1 * (z - r))
        losses.append((1.3 if place < 24 else 0.7) * (1 - value))
    expected = torch.stack(losses).mean()
    weights = [weight for _, weight in lora.trainable(model)]
    found = moved.compute_loss(model, batch_of(moved))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    wanted = torch.autograd.grad(expected, weights)
    for ours, theirs in zip(torch.autograd.grad(found, weights), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=1e-6)


def test_the_loss_is_trl_s(moved: KtoTrainer, pico_base: Parent, tmp_path: Path) -> None:
    """Of the same batch and the same moved adapter; TRL's reference is its own copy of the fresh one."""
    model, _ = qlora.load_for_training(pico_base.path, moved.recipe, "dequantized")
    without_dropout(model)
    config = {"beta": 0.1, "desirable_weight": 1.3, "undesirable_weight": 0.7}
    theirs = trl.KTOTrainer(
        model,
        args=trl.KTOConfig(
            str(tmp_path),
            bf16=False,
            gradient_checkpointing=False,
            train_sampling_strategy="sequential",
            report_to="none",
            use_cpu=True,
            **config,
        ),
        train_dataset=Dataset.from_list(
            [{"prompt": "a", "completion": " b", "label": good} for good in (1, 0)]
        ),
        processing_class=moved.processing_class,
    )
    ours = dict(lora.trainable(moved.model))
    copies = {name: weight for name, weight in model.named_parameters() if name in ours}
    for name, weight in copies.items():
        weight.data = ours[name].data.clone()
    expected = theirs.compute_loss(model, theirs.data_collator(as_trl_has_it(moved)))
    found = moved.compute_loss(moved.model, batch_of(moved))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    slopes = torch.autograd.grad(found, [ours[name] for name in copies])
    for slope, wanted in zip(slopes, torch.autograd.grad(expected, list(copies.values())), strict=True):
        torch.testing.assert_close(slope, wanted, rtol=1e-3, atol=1e-6)


def as_trl_has_it(trainer: KtoTrainer) -> list[dict[str, Any]]:
    """The batch in parts."""
    rows, found = ids_and_labels(trainer.splits[0]), []
    for place, other in others(BATCH):
        first = next(k for k, label in enumerate(rows[place][1]) if label != IGNORED)
        answer, another = ([t for t in rows[row][1] if t != IGNORED] for row in (place, other))
        prompt = rows[place][0][:first]
        found.append(
            {
                "prompt_ids": prompt,
                "completion_ids": answer,
                "KL_completion_ids": another,
                "label": bool(trainer.splits[0].desirable[place]),
            }
        )
    return found


def test_what_is_good_becomes_likelier_and_what_is_bad_less(
    pico_base: Parent, dataset: Parent, tmp_path: Path
) -> None:
    config = settings(kto={**settings().kto.model_dump(), "learning_rate": 1e-2})
    facts = train({"base": pico_base, "dataset": dataset}, config, tmp_path)
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    steps = [row for row in history if "loss" in row]
    assert len(steps) == 10
    assert set(steps[0]) == {"step", "loss", "learning_rate", "tokens", "as_labelled", "kl"}
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-4), "it begins at its reference"
    validations = [row for row in history if "validation_loss" in row]
    assert validations[-1]["validation_loss"] < validations[0]["validation_loss"] < 0.5
    assert facts.metrics["validation_as_labelled"] > 0.7
    assert facts.metrics["rows"] == 40
    record = json.loads((tmp_path / "tuneline.json").read_text())
    assert record["kto"] == config.kto.model_dump()
    assert "start" not in record


def test_the_reference_reads_each_answer_after_its_own_prompt_and_after_others(moved: KtoTrainer) -> None:
    known = np.load(Path(moved.args.output_dir) / REFERENCE)
    validation, mixed = (ids_and_labels(moved.splits[place]) for place in (1, 3))
    assert known.shape == (40 + 12 + 40 + 12, 1)
    order = [place for places in moved._batches(moved.splits[1]) for place in places]
    answers = [[token for token in labels if token != IGNORED] for _, labels in validation]
    for place, other, (ids, labels) in zip(order, [order[-1], *order[:-1]], mixed, strict=True):
        said = [token for token in labels if token != IGNORED]
        asked = len(ids) - len(said)
        assert said == answers[other][: len(said)] == ids[asked:]
        assert ids[:asked] == validation[place][0][:asked]
        assert validation[place][1][asked] == answers[place][0]
    assert moved.splits[3].lengths.tolist() == [len(ids) for ids, _ in mixed]
    assert moved.splits[3].lengths.max() <= moved.splits[1].lengths.max()
    assert len(moved.splits[0]) == 40


def test_what_cannot_be_trained_on_is_said(
    pico_base: Parent, dataset: Parent, pairs: Parent, tmp_path: Path
) -> None:
    parents = {"base": pico_base, "dataset": dataset}
    with pytest.raises(InvalidInput, match=r"answers that nobody called good or bad.*format: unpaired-pref"):
        train({**parents, "dataset": pairs}, settings(), tmp_path)
    with pytest.raises(InvalidInput, match=r"train\.kto\.start is sft, and no adapter was given"):
        train(parents, settings(kto={}), tmp_path)
    for called, kept in (("good", "train.parquet"), ("bad", "train_undesirable.parquet")):
        folder = tmp_path / called
        folder.mkdir()
        rows = pq.read_table(dataset.path / kept)
        for name in ("train.parquet", "train_undesirable.parquet"):
            pq.write_table(rows if name == kept else rows.slice(0, 0), folder / name)
        with pytest.raises(InvalidInput, match=f"every answer of the training split is called {called}"):
            train({**parents, "dataset": dataset.model_copy(update={"path": folder})}, settings(), tmp_path)


def test_a_recipe_of_it(pico_base: Parent) -> None:
    assert "kto" not in TrainConfig().model_dump()
    with pytest.raises(ValidationError, match="method is sft: set method: kto, or take it out"):
        TrainConfig(kto=KtoConfig(beta=0.5))
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        settings(kto={"batch_size": 1})
    with pytest.raises(ValidationError, match=r"which kto\.start leaves out: take it out"):
        settings(neftune_noise_alpha=5)
    supervised, kto = settings(kto={"learning_rate": 2e-5}).trainings
    assert {"method", "kto"}.isdisjoint(supervised.model_dump())
    assert (kto.as_run.learning_rate, kto.as_run.batch_size, kto.sequences) == (2e-5, 8, 8)
    assert (kto.goes_on, kto.named_start, settings(kto={"start": "a@1"}).named_start) == (True, None, "a@1")
    shape = describe_base(f"path:{pico_base.path}")
    rows = TrainConfig.model_validate(
        {**kto.model_dump(mode="json"), "method": "sft", "kto": {}, "batch_size": 8}
    )
    ours, theirs = (training_memory(shape, config, 64, "packed", False) for config in (kto, rows))
    assert 0 <= ours - theirs < 16 * 2**20, "answers after other prompts are read when nothing else is held"
