"""The trial of tools and JSON without its minutes: its rows, and its recipes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest

from flows.recipe import load
from tests.reliability.structured import __main__ as trial
from tests.reliability.structured import plan, rows, served


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


def _client(text: str, calls: tuple[tuple[str, str], ...] = ()) -> Any:
    called = [SimpleNamespace(function=SimpleNamespace(name=n, arguments=a)) for n, a in calls]
    message = SimpleNamespace(content=text, tool_calls=called or None)
    done = SimpleNamespace(choices=[SimpleNamespace(message=message, finish_reason="stop")])
    return SimpleNamespace(
        chat=SimpleNamespace(completions=SimpleNamespace(create=lambda **_: done)),
    )


def test_an_order_that_came_back_otherwise_or_unlike_its_schema_is_seen() -> None:
    made = rows.made(rows.order, 1, 0)
    ((question, one),) = made.items()
    recorded = one.row["messages"][-1]["content"]
    item: Any = {"asked": question, "answer": recorded}
    other = json.dumps(json.loads(recorded) | {"quantity": 1})
    seen = [served.ask_orders(_client(text), [item], made)[0] for text in (recorded, other, "{}")]
    assert [(one.recorded_fits, one.fits, one.same) for one in seen] == [
        (True, True, True),
        (True, True, False),
        (True, False, False),
    ]


def test_a_call_of_a_tool_that_the_row_does_not_offer_is_not_allowed() -> None:
    made = rows.made(rows.call, 1, 0)
    ((question, one),) = made.items()
    call = one.row["messages"][-1]["tool_calls"][0]["function"]
    name, arguments = call["name"], call["arguments"]
    recorded = f'<tool_call>{{"name": "{name}", "arguments": {arguments}}}</tool_call>'
    item: Any = {"asked": question, "answer": recorded}
    tried = ((name, arguments), ("no_such_tool", arguments), (name, "{}"))
    seen = [served.ask_calls(_client("", (pair,)), [item], made)[0] for pair in tried]
    assert all(one.recorded_fits for one in seen)
    assert [(one.fits, one.same) for one in seen] == [(True, True), (False, False), (False, False)]


def test_few_comparable_answers_are_a_fault() -> None:
    asked = served.Served(
        "q", "recorded", "recorded", recorded_fits=True, fits=True, same=True, cut_off=False
    )
    other = asked._replace(recorded="{}", recorded_fits=False, same=False)
    report = {"gate": {"verdict": "pass"}}
    assert trial._unlike(report, [asked] * 8 + [other] * 2) == []
    found = trial._unlike(report, [asked] * 7 + [other] * 3)
    assert found == ["only 7 of 10 recorded answers are allowed, and so compared"]
    changed = trial._unlike(report, [asked] * 9 + [asked._replace(answer="else", same=False)])
    assert changed == ["'q': recorded 'recorded', served 'else'"]
