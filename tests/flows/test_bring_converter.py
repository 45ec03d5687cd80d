"""A wheel brings no converter of llama.cpp: the first run that needs it fetches it."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.execute import bring_converter
from flows.progress_view import ProgressView
from flows.recipe import load
from stages.backends import llama_cpp_source


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    monkeypatch.setattr(llama_cpp_source, "install", lambda: calls.append("install"))
    return calls


def test_it_is_fetched_where_it_is_not_there(
    fetched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp_source, "home", lambda: tmp_path / "nowhere")
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
    monkeypatch.setattr(llama_cpp_source, "home", lambda: tmp_path / "nowhere")
    recipe = load("pico-smoke").model_copy(update={"quantize": (), "adapter": None})
    with ProgressView() as view:
        bring_converter(recipe, view)
    assert fetched == []
