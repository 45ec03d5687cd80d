"""The trial of tools and JSON without its minutes: its rows, and its recipes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import jsonschema
import pytest

from flows.recipe import load
from tests.reliability.structured import plan, rows


def test_each_call_is_of_a_tool_that_the_row_offers_and_fits_its_parameters() -> None:
    made, called = rows.made(rows.call, 300, 0), Counter[str]()
    for one in made.values():
        functions = {tool["function"]["name"]: tool["function"] for tool in one.row["tools"]}
        for call in one.row["messages"][-1].get("tool_calls", ()):
            name = call["function"]["name"]
            called[name] += 1
            jsonschema.validate(json.loads(call["function"]["arguments"]), functions[name]["parameters"])
    assert called.keys() == {tool["function"]["name"] for tool in rows.TOOLS}
    assert min(called.values()) > 30
    assert 20 < 300 - called.total() < 80, "rows that no tool fits"


def test_each_order_fits_the_schema_and_its_values_stand_in_the_mail() -> None:
    for question, one in rows.made(rows.order, 300, 0).items():
        order = json.loads(one.row["messages"][-1]["content"])
        jsonschema.validate(order, plan.SCHEMA)
        assert all(str(order[name]) in question for name in plan.FIELDS if name != "express")


@pytest.mark.parametrize("name", plan.SCORES)
def test_the_recipe_is_valid_and_asks_the_gate_for_each_score(name: str, tmp_path: Path) -> None:
    kind = {"calls": rows.call, "orders": rows.order}[name]
    plan.write(tmp_path, name, rows.made(kind, 20, 0), 0.1)
    recipe = load(str(tmp_path / f"{name}.yaml"))
    assert recipe.gate is not None
    assert [rule.metric for rule in recipe.gate.tasks] == list(plan.SCORES[name])
    assert len((tmp_path / f"{name}.jsonl").read_text().splitlines()) == 20
