"""What of a search space cannot work or does not fit: said before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows import cli
from flows.errors import InvalidRecipe
from flows.planning.machine import Machine
from flows.recipe import load
from flows.settings import Settings
from flows.sweep import preflight
from flows.sweep.config import Range
from flows.sweep.preflight import largest, refuse_largest, refuse_values
from flows.sweep.space import parameters
from stages.errors import InsufficientResources
from stages.model_shape import ModelShape, describe_base


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return describe_base("pico:0")


def test_values_that_the_rest_of_the_recipe_refuses(shape: ModelShape) -> None:
    recipe = load("pico-tenant")
    space = parameters({"train.lora.dora": (False, True), "train.learning_rate": (1e-3, 1e-2)}, recipe)
    with pytest.raises(InvalidRecipe) as refused:
        refuse_values(recipe, space, shape)
    lines = str(refused.value).splitlines()
    assert lines[0] == "pico-tenant: the search space has values that cannot work:"
    assert len(lines) == 2
    assert lines[1].startswith("  train.lora.dora=true: train.lora.dora: llama.cpp does not apply DoRA")
    refuse_values(recipe, space[1:], shape)


def test_the_largest_of_a_space_is_what_holds_the_most(shape: ModelShape) -> None:
    recipe = load("pico-smoke")
    space = parameters(
        {
            "train.learning_rate": Range(low=1e-5, high=1e-2, log=True),
            "train.lora.rank": (64, 8),
            "train.batch_size": Range(low=2, high=32),
            "train.gradient_checkpointing": (True, False),
        },
        recipe,
    )
    values = largest(recipe, space, shape, False)
    assert values == {
        "train.learning_rate": 1e-5,
        "train.lora.rank": 64,
        "train.batch_size": 32,
        "train.gradient_checkpointing": False,
    }


def test_what_does_not_fit_is_refused_before_it_starts(
    shape: ModelShape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, settings = load("pico-smoke"), Settings(home=tmp_path / "home", cache=tmp_path / "cache")
    space = parameters({"train.batch_size": (4, 4096)}, recipe)

    def small(*_: Any, **__: Any) -> Machine:
        return Machine(memory_available=4_000_000_000, disk_free=10**12, cpu_count=2)

    monkeypatch.setattr(preflight, "machine", small)
    with pytest.raises(InsufficientResources) as refused:
        refuse_largest(recipe, space, shape, settings)
    assert str(refused.value).startswith("the largest of the search space is train.batch_size=4096, and ")
    assert "train adapter needs about" in str(refused.value)
    refuse_largest(recipe, parameters({"train.batch_size": (4, 8)}, recipe), shape, settings)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("recipe: pico-smoke\nsearch: {train.lora.rnak: [4, 8]}", "train.lora.rnak: unknown key; did you"),
        ("recipe: pico-smoke\nsearch: {prepare.seed: [1, 2]}", "only keys of train are searched"),
        ("recipe: nothing.yaml\nsearch: {train.epochs: [1, 2]}", "no recipe"),
        (
            "recipe: pico-smoke\nsearch: {train.epochs: [1, 2]}\nobjective: {task: a, metric: b}",
            "objective.task: 'a' is not a task of evaluate.tasks",
        ),
    ],
)
def test_a_sweep_that_cannot_begin_makes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    expected: str,
) -> None:
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    assert cli.main(["sweep", str(file)]) == 3
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "home").exists()


def test_no_validation_rows_no_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))
    file = tmp_path / "sweep.yaml"
    file.write_text("recipe: pico-smoke\nsearch: {train.epochs: [1, 2]}")
    assert cli.main(["sweep", str(file), "--set", "prepare.split.validation=0"]) == 3
    assert "prepare.split.validation: 0 leaves no rows to choose by" in capsys.readouterr().err
