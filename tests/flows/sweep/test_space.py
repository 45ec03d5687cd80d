"""The keys that are searched: checked against the recipe before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

from flows.errors import InvalidRecipe
from flows.recipe import load
from flows.sweep.config import Range
from flows.sweep.space import Parameter, in_words, parameters, with_values


def test_what_a_key_takes_follows_from_the_recipe() -> None:
    search = {
        "train.learning_rate": Range(low=1e-5, high=1e-3, log=True),
        "train.lora.rank": Range(low=4, high=64),
        "train.early_stopping": (None, 1),
        "train.lora.target_modules": ("all-linear", ["q_proj", "v_proj"]),
    }
    found = parameters(search, load("demo"))
    assert found == (
        Parameter("train.learning_rate", "float", low=1e-5, high=1e-3, log=True),
        Parameter("train.lora.rank", "int", low=4, high=64),
        Parameter("train.early_stopping", "choice", (None, 1)),
        Parameter("train.lora.target_modules", "choice", ("all-linear", ["q_proj", "v_proj"])),
    )
    assert [parameter.ends for parameter in found[:3]] == [(1e-5, 1e-3), (4, 64), (None, 1)]
    assert [type(end) for end in found[1].ends] == [int, int]


def test_values_are_put_where_their_keys_say() -> None:
    recipe = load("demo")
    tried = {"train.learning_rate": 3e-4, "train.lora.rank": 8, "train.lora.target_modules": ["q_proj"]}
    changed = with_values(recipe, tried)
    assert (changed.train.learning_rate, changed.train.lora.rank) == (3e-4, 8)
    assert changed.train.lora.target_modules == ("q_proj",)
    assert changed.train.lora.alpha == recipe.train.lora.alpha
    assert with_values(changed, dict.fromkeys(["train.lora.rank"], 16)).train.lora.rank == 16
    assert with_values(recipe, {}) == recipe
    assert in_words(tried).startswith("train.learning_rate=0.0003 train.lora.rank=8 ")


def test_a_section_that_is_not_written_out_gets_values_too() -> None:
    recipe = load("demo", ["prepare.format=preferences", "train.method=dpo"])
    assert with_values(recipe, {"train.dpo.beta": 0.3}).train.dpo.beta == 0.3


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ({"train.lernrate": (1e-4,)}, "search: train.lernrate=0.0001: train.lernrate: unknown key; did you"),
        ({"train.lernrate": Range(low=1, high=2)}, "train.lernrate: unknown key"),
        ({"train.lora.rank": (8, 0)}, "search: train.lora.rank=0: train.lora.rank: "),
        ({"train.lora.rank": Range(low=8, high=2000)}, "train.lora.rank=2000: train.lora.rank: "),
        ({"train.lora.rank": Range(low=8, high=16.5)}, "train.lora.rank takes whole numbers; found 8 to 16"),
        ({"train.schedule": Range(low=1, high=2)}, "train.schedule takes no range of numbers; give a list"),
        ({"train.lora.dora": Range(low=0, high=1)}, "train.lora.dora takes no range of numbers"),
        ({"train.epochs.x": (1,)}, "train.epochs.x: 'epochs' is a value, not a section"),
        ({"prepare.seed": (1, 2)}, "prepare.seed: only keys of train are searched, such as train.learning_"),
        ({"train": ({},)}, "train: only keys of train are searched"),
        ({"train.": (1,)}, "train.: only keys of train are searched"),
        ({"train.method": ("sft",)}, "train.method is not searched, because trials of two methods"),
        ({"train.nf4.double_quant": (True,)}, "train.nf4.double_quant is not searched, because trials are"),
        ({"train.evaluations": (1, 2)}, "train.evaluations is not searched"),
        ({"train.dpo": ({"start": "base"},)}, "train.dpo has a value for train.dpo.start, which is not"),
        ({"train.kto.start": ("base",)}, "train.kto.start is not searched, because all trials go on"),
        (
            {"train.lora": ({"rank": 8},), "train.lora.alpha": (8, 16)},
            "train.lora holds train.lora.alpha, which is searched too; take one of them out",
        ),
        (
            {"train.dpo.beta": (0.1, 0.2)},
            "train.dpo.beta=0.2: train: dpo is how that method trains",
        ),
        (
            {"train.early_stopping": (1, 3), "train.max_length": (64,)},
            "train.max_length=64: train.max_length (64) is less than prepare.max_length (128)",
        ),
    ],
)
def test_what_cannot_be_searched_is_said_at_once(search: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidRecipe) as refused:
        parameters(search, load("demo"))
    assert expected in str(refused.value)


def test_every_key_is_named_at_once() -> None:
    with pytest.raises(InvalidRecipe) as refused:
        parameters({"train.lernrate": (1,), "train.lora.rnak": (8,)}, load("demo"))
    assert len(str(refused.value).splitlines()) == 2
