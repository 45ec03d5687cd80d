"""Which dataset a new one goes on from, so that the same watermark gives the same dataset."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.held_out import previous_dataset
from flows.recipe import Recipe, load
from registry import Artifact, Registry, Waiver, content
from registry.artifacts import QuantSpec
from tests.flows.lineages import base_reference, publish


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "home") as registry:
        yield registry


@pytest.fixture
def serve(registry: Registry) -> Callable[[Artifact], None]:
    """Point the recipe's channel to an adapter that was trained on this dataset."""

    def move(data: Artifact) -> None:
        trained = publish(
            registry, "adapter", "train", {"a": data.id.encode()}, (("trained_on", data),),
            base=base_reference(), quant=QuantSpec(method="bnb"),
        )  # fmt: skip
        channel = registry.channels.get("pico/smoke")
        generation = channel.generation if channel else 0
        registry.channels.move("pico/smoke", trained.id, generation, waiver=Waiver("why", "ada"))

    return move


def dataset(registry: Registry, mark: str, previous: Artifact | None = None, **settings: Any) -> Artifact:
    parents = (("grown_from", previous),) if previous is not None else ()
    files = {"feed_rows.json": json.dumps(mark).encode()}
    config = recipe(f"feed:{mark}").prepare.model_dump(mode="json") | settings
    return publish(registry, "dataset", "prepare", files, parents, config=config)


def recipe(source: str, *more: str) -> Recipe:
    return load("pico-smoke", [f"prepare.source={source}", "prepare.format=auto", *more])


def test_a_dataset_goes_on_from_the_live_models_data(
    registry: Registry, serve: Callable[[Artifact], None]
) -> None:
    assert previous_dataset(registry, recipe("feed:tickets@10")) == {}, "nothing is live"
    first = dataset(registry, "tickets@10")
    serve(first)
    assert previous_dataset(registry, recipe("feed:tickets@20")) == {"previous": first}
    assert previous_dataset(registry, recipe("feed:tickets@10")) == {}, "as when it was made"
    assert previous_dataset(registry, recipe("feed:other@20")) == {}
    assert previous_dataset(registry, load("pico-smoke")) == {}
    second = dataset(registry, "tickets@20", first)
    serve(second)
    assert previous_dataset(registry, recipe("feed:tickets@20")) == {"previous": first}
    assert previous_dataset(registry, recipe("feed:tickets@20-3")) == {"previous": first}, "rows forgotten"
    assert previous_dataset(registry, recipe("feed:tickets@15")) == {"previous": first}
    assert previous_dataset(registry, recipe("feed:tickets@21")) == {"previous": second}
    alone = load(
        "pico-smoke", ["prepare.source=feed:tickets@21", "prepare.format=auto", "promote=null", "deploy=null"]
    )
    assert previous_dataset(registry, alone) == {}


def test_keys_that_hold_out_other_rows_go_on_from_the_live_models_data_too(
    registry: Registry, serve: Callable[[Artifact], None]
) -> None:
    first = dataset(registry, "tickets@10")
    second = dataset(registry, "tickets@20", first)
    for live in (first, second):
        serve(live)
        for key in ("seed=7", "split.test=0.25", "near_duplicates=null", "max_length=60", "system=Be kind."):
            for mark in (10, 20) if live is second else (10,):
                other = recipe(f"feed:tickets@{mark}", f"prepare.{key}")
                assert previous_dataset(registry, other) == {"previous": live}, "its fresh rows stay held out"
    licence = recipe("feed:tickets@20", "prepare.licence=MIT")
    assert previous_dataset(registry, licence) == {"previous": first}, "holds out the same rows"


def test_where_the_files_of_an_earlier_dataset_are_gone_the_later_one_holds_out_the_same(
    registry: Registry, serve: Callable[[Artifact], None]
) -> None:
    first = dataset(registry, "tickets@10")
    second = dataset(registry, "tickets@20", first)
    serve(second)
    assert previous_dataset(registry, recipe("feed:tickets@20")) == {"previous": first}
    with registry.database.write() as connection:
        content.collect(connection, {first.id: 1})
    assert previous_dataset(registry, recipe("feed:tickets@20")) == {"previous": second}


def test_of_a_live_model_on_other_data(registry: Registry, serve: Callable[[Artifact], None]) -> None:
    serve(publish(registry, "dataset", "prepare", {"x": b"x"}, config={"source": "path:a@" + "a" * 64}))
    assert previous_dataset(registry, recipe("feed:tickets@20")) == {}
    first = dataset(registry, "tickets@10")
    serve(first)
    serve(dataset(registry, "other@5"))
    assert previous_dataset(registry, recipe("feed:tickets@20")) == {"previous": first}, "served last of it"
