"""A night's recipes: what goes wrong with one ends no other."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from flows import retrain as night
from flows.errors import InvalidRecipe
from flows.recipe import load


def test_neither_a_users_mistake_nor_a_defect_ends_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[str] = []

    def execute(recipe: Any, *_: Any) -> Any:
        ran.append(recipe.name)
        if recipe.name == "demo":
            raise KeyError("a defect")
        return SimpleNamespace(error=None, report=SimpleNamespace(gate={"verdict": "pass"}), html="page")

    def choosing(name: str, overrides: Sequence[str] = ()) -> Any:
        mine = ['prepare.system=Answer: "yes" or no'] if name == "pico-smoke" else overrides
        return load(name, mine)

    monkeypatch.setattr(night, "execute", execute)
    monkeypatch.setattr(night, "load", choosing)
    names = ["pico-smoke", "absent", "demo", "pico-tenant"]
    with pytest.raises(night.RetrainFailed) as caught:
        night.retrain.fn(names)
    assert ran == ["demo", "pico-tenant"]
    said = str(caught.value)
    assert "pico-smoke: error: --set 'prepare.system=Answer" in said
    assert "absent: error: no recipe 'absent'" in said
    assert "demo: error: KeyError: 'a defect' (a defect: its trace is in the log)" in said
    assert "pico-tenant: " not in said
    assert any(record.exc_info for record in caplog.records)


def test_an_override_that_cannot_be_read_is_said_once_per_recipe() -> None:
    with pytest.raises(night.RetrainFailed, match=r"pico-smoke: error: --set .*; pico-tenant: error: --set "):
        night.retrain.fn(["pico-smoke", "pico-tenant"], ["train.epochs={"])
    with pytest.raises(InvalidRecipe):
        load("pico-smoke", ["train.epochs={"])


@pytest.mark.parametrize(
    ("verdicts", "name"),
    [(("pass", None), "Completed"), (("pass", "insufficient"), "No pass for pico-tenant")],
)
def test_the_flow_runs_state_says_which_gate_did_not_pass(
    monkeypatch: pytest.MonkeyPatch, verdicts: tuple[str | None, str | None], name: str
) -> None:
    given = dict(zip(("pico-smoke", "pico-tenant"), verdicts, strict=True))

    def execute(recipe: Any, *_: Any) -> Any:
        gate = given[recipe.name] and {"verdict": given[recipe.name]}
        return SimpleNamespace(error=None, report=SimpleNamespace(gate=gate), html="page")

    monkeypatch.setattr(night, "execute", execute)
    state = night.retrain.fn(list(given))
    assert (state.type.value, state.name) == ("COMPLETED", name)
    assert state.message is not None
    assert state.message.startswith("pico-smoke: gate: pass; report: page; pico-tenant: ")
    assert state.data["pico-smoke"] == "gate: pass; report: page"


def test_an_interruption_ends_the_night(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def execute(recipe: Any, *_: Any) -> Any:
        ran.append(recipe.name)
        return SimpleNamespace(error=KeyboardInterrupt())

    monkeypatch.setattr(night, "execute", execute)
    with pytest.raises(KeyboardInterrupt):
        night.retrain.fn(["pico-smoke", "pico-tenant"])
    assert ran == ["pico-smoke"]
