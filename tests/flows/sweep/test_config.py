"""What a sweep file may say, and what is said of one that says something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.errors import InvalidRecipe
from flows.sweep.config import Range, read_sweep

SEARCH = {"train.lora.rank": [4, 8], "train.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}}


def written(folder: Path, **changes: Any) -> Path:
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump({"recipe": "pico-smoke", "search": SEARCH, **changes}))
    return file


def test_a_file_in_full(tmp_path: Path) -> None:
    config = read_sweep(written(tmp_path, trials=7, seed=3, pruning=None))
    assert (config.trials, config.seed, config.startup, config.pruning) == (7, 3, 5, None)
    assert config.values == {
        "train.lora.rank": (4, 8),
        "train.learning_rate": Range(low=1e-5, high=1e-3, log=True),
    }
    assert read_sweep(written(tmp_path)).pruning is not None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"search": {}}, "search: "),
        ({"search": {"train.epochs": []}}, "search: train.epochs: an empty list"),
        ({"search": {"train.epochs": 3}}, "search: train.epochs: expected a list of values, or a range"),
        ({"search": {"train.epochs": [1, 2, 1]}}, "search: train.epochs: a value stands in its list twice"),
        ({"search": {"train.epochs": {"low": 1}}}, "search: train.epochs: high: this key is required"),
        ({"search": {"train.epochs": {"low": 2, "high": 2}}}, "search: train.epochs: low is 2 and high 2"),
        (
            {"search": {"train.weight_decay": {"low": 0, "high": 1, "log": True}}},
            "search: train.weight_decay: log needs numbers above 0",
        ),
        ({"search": {"train.epochs": {"low": 1, "hihg": 2}}}, "did you mean 'high'?"),
        ({"trails": 3}, "trails: unknown key; did you mean 'trials'?"),
        ({"trials": 0}, "trials: "),
        ({"objective": {"task": "routing"}}, "objective.metric: this key is required"),
    ],
)
def test_what_is_wrong_is_said_at_its_key(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidRecipe) as refused:
        read_sweep(written(tmp_path, **changes))
    assert expected in str(refused.value)


def test_a_file_that_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecipe, match=r"no sweep file .*none\.yaml"):
        read_sweep(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(InvalidRecipe, match="a sweep is a YAML mapping with recipe and search, found list"):
        read_sweep(tmp_path / "list.yaml")
