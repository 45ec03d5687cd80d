"""Forgetting: content is gone for good, the list of what held it is complete."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from registry import Artifact, Registry, Waiver
from registry.artifacts import BaseReference, Parentage, QuantSpec
from registry.errors import InvalidFeed, NotFound
from registry.feeds.forgetting import LIST
from tests.registry.backends import only
from tests.registry.feeds.test_feeds import row

Publish = Callable[..., Artifact]
SECRET = "a xylophone in the cellar"


def dataset(
    registry: Registry,
    publish: Publish,
    mark: str,
    rows: list[int],
    previous: Artifact | None = None,
    **more: Any,
) -> Artifact:
    known = {"feed": "tickets", "watermark": 3, "train": rows, "test": [], **more}
    files = {LIST: json.dumps(known).encode()}
    parents = () if previous is None else (Parentage(relation="grown_from", id=previous.id),)
    config = {"source": f"feed:{mark}"}
    return publish(registry, f"{mark} {rows}", files, config=config, parents=parents)


def adapter(registry: Registry, publish: Publish, base: BaseReference, data: Artifact) -> Artifact:
    made: dict[str, Any] = {
        "kind": "adapter",
        "stage": "train",
        "base": base,
        "quant": QuantSpec(method="bnb"),
    }
    parents = (Parentage(relation="trained_on", id=data.id),)
    return publish(registry, f"adapter of {data.id}", parents=parents, **made)


@only("local")
def test_forgotten_rows_are_gone_and_all_that_held_them_is_known(
    registry: Registry, publish: Publish, base: BaseReference
) -> None:
    of_acme = replace(row(SECRET), tenant="acme")
    registry.feeds.add("tickets", [row("a"), of_acme, row("b")], "ada")
    holding = dataset(registry, publish, "tickets@3", [1, 2, 3])
    without = dataset(registry, publish, "tickets@3", [1, 3])
    earlier = dataset(registry, publish, "tickets@1", [1])
    other = dataset(registry, publish, "other@3", [2])
    onward = dataset(registry, publish, "tickets@3-1", [1, 3], holding)
    aside = dataset(registry, publish, "tickets@3", [3], holding, set_aside=[2])
    trained, clean = (adapter(registry, publish, base, data) for data in (holding, without))
    measured = publish(
        registry, "evaluation", kind="evaluation",
        parents=(Parentage(relation="evaluation_of", id=trained.id),),
    )  # fmt: skip
    registry.channels.move("team/prod", trained.id, 0, waiver=Waiver("why", "ada"))
    assert registry.forgettings.holders() == []

    forgetting = registry.forgettings.forget("ada", tenant="acme")
    assert (forgetting.rows, forgetting.tenant) == ({"tickets": [2]}, "acme")
    assert str(registry.feeds.watermark("tickets")) == "tickets@3-1"
    assert str(registry.feeds.watermark("tickets", 1)) == "tickets@1"
    contents = dict(registry.feeds.contents(registry.feeds.watermark("tickets")))
    assert contents[2] is None
    assert None not in (contents[1], contents[3])
    with registry.database.read() as connection:
        held = [str(tuple(one)) for one in connection.execute(text("SELECT * FROM feed_rows"))]
    assert "xylophone" not in "".join(held)
    files = [path for path in registry.home.glob("registry.db*") if path.is_file()]
    assert b"xylophone" not in b"".join(path.read_bytes() for path in files)

    holders = {one.id: one for one in registry.forgettings.holders()}
    assert set(holders) == {holding.id, trained.id, measured.id}
    assert not set(holders) & {without.id, earlier.id, other.id, onward.id, aside.id, clean.id}
    assert holders[holding.id].rows == {"tickets": [2]}
    assert holders[trained.id].channels == ("team/prod",)
    late = dataset(registry, publish, "tickets@3", [2])
    assert late.id in {one.id for one in registry.forgettings.holders()}, "was being made meanwhile"

    for feed in ("tickets", "another"):
        again = registry.feeds.add(feed, [row("a"), of_acme, of_acme], "ada")
        assert (again.new + again.known, again.forgotten) == (1, 2), "it does not come back with its file"
    assert [one.content is None for one in registry.feeds.rows("another")] == [False]
    assert registry.forgettings.forget("ada", tenant="acme").rows == {}
    assert [one.rows for one in registry.forgettings.ls()] == [{"tickets": [2]}, {}]


@only("local")
def test_one_request(registry: Registry) -> None:
    request = "1" * 32
    rows = [replace(row("a"), request=request), row("b")]
    registry.feeds.add("tickets", rows, "ada")
    registry.feeds.add("other", rows, "ada")
    assert registry.forgettings.forget("ada", request=request).rows == {"other": [1], "tickets": [1]}
    with pytest.raises(NotFound, match=f"nothing was ever recorded of request {'2' * 32}"):
        registry.forgettings.forget("ada", request="2" * 32)
    with pytest.raises(NotFound, match="nothing was ever recorded of tenant acme"):
        registry.forgettings.forget("ada", tenant="acme")
    for wrong in ({}, {"tenant": "acme", "request": request}):
        with pytest.raises(InvalidFeed, match="a tenant, or a request"):
            registry.forgettings.forget("ada", **wrong)


@only("local")
def test_rows_end_with_their_time_and_ask_for_no_new_training(registry: Registry, publish: Publish) -> None:
    rows = [
        replace(row("a"), expires="2026-01-01T00:00:00"),
        replace(row("b"), expires="2999-01-01T00:00:00"),
    ]
    registry.feeds.add("tickets", rows, "ada")
    dataset(registry, publish, "tickets@2", [1, 2])
    assert registry.forgettings.expire() == 1
    assert registry.forgettings.expire() == 0
    assert [one.content is None for one in registry.feeds.rows("tickets")] == [True, False]
    assert registry.forgettings.holders() == []
