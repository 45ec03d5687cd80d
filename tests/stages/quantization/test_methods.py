"""Each quantization method in the list answers all that is asked of one."""

from __future__ import annotations

import ast
import importlib
import inspect
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest

from flows.planning.machine import USUAL_IMPORTS
from registry.artifacts import QuantSpec
from registry.db.tables import artifacts
from registry.quantization import STORED, QuantMethod
from serving.engine.capabilities import ENGINES
from stages.model_shape import describe_base
from stages.quantization import METHODS, method_of, method_that_made
from stages.quantization.distance import LIMITS
from stages.quantization.method import QuantizationMethod
from stages.quantization.snippets import Exported

SHAPE = describe_base("pico:0")
EXPORTED = Exported(("model.gguf",), False, '[{"role": "user", "content": "Hi"}]', "", "tokenizer = None\n")

each = pytest.mark.parametrize("asked", METHODS, ids=lambda method: method.tag)


class Reached(Exception):
    """A backend was called as it can be called."""


def made_by(asked: QuantizationMethod[Any]) -> QuantSpec:
    """The manifest's record of a file that the method made with its defaults."""
    return QuantSpec(method=asked.tag, requested=asked.config().model_dump(mode="json"))


@each
def test_a_method_is_found_by_its_config_and_by_what_it_made(asked: QuantizationMethod[Any]) -> None:
    assert method_of(asked.config()) is asked
    assert method_that_made(made_by(asked)) is asked


@each
def test_a_method_says_who_serves_it_and_what_it_needs(asked: QuantizationMethod[Any]) -> None:
    assert asked.engine in ENGINES
    assert asked.tag in ENGINES[str(asked.engine)].methods
    assert asked.no_kernel(asked.config(), ENGINES[str(asked.engine)]) is None, "not even by default"
    assert asked.packages
    assert all(find_spec(name) for name in asked.packages)


@each
def test_a_method_has_one_name_in_recipe_and_manifest(asked: QuantizationMethod[Any]) -> None:
    config, quant = asked.config(), made_by(asked)
    assert config.label.startswith(asked.tag)
    assert config.form == asked.form_of(quant)
    assert asked.name in asked.describe(quant)


@each
def test_a_method_has_a_limit_and_something_to_round_to(asked: QuantizationMethod[Any]) -> None:
    quant = made_by(asked)
    assert 0 < LIMITS[asked.type_of(quant)] <= 2.5
    grid = asked.grid(quant)
    assert grid is None or 1 < grid.bits <= 8
    assert asked.lose_less(quant)


@each
def test_a_method_says_what_it_costs_and_whom_it_refuses(asked: QuantizationMethod[Any]) -> None:
    cost = asked.cost(asked.config(), SHAPE, 256)
    assert 1e8 < USUAL_IMPORTS + cost.memory_bytes < 4e9
    assert SHAPE.parameters * 2 / 8 < cost.disk_bytes < SHAPE.parameters * 8
    assert min(cost.work.beside, cost.work.serial, cost.work.disk) > 0
    assert cost.note
    assert asked.refusal("llama", "LlamaForCausalLM") is None
    assert asked.refusal("mamba", "NoSuchForCausalLM"), "no library knows this one"


@each
def test_a_method_says_how_its_files_are_loaded(asked: QuantizationMethod[Any]) -> None:
    tested, *others = asked.snippets(EXPORTED)
    assert (tested.language, bool(others)) == ("python", True)
    assert EXPORTED.messages in tested.code
    ast.parse(tested.code)


@each
def test_a_methods_backend_is_where_it_says(
    asked: QuantizationMethod[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is named and not imported: no type checker sees what is called, and with what."""

    def backend(module: str, function: str) -> Any:
        real = getattr(importlib.import_module(f"stages.backends.{module}"), function)

        def call(*given: Any) -> None:
            inspect.signature(real).bind(*given)
            raise Reached

        return call

    monkeypatch.setattr(inspect.getmodule(type(asked).quantize), "backend", backend)
    with pytest.raises(Reached):
        asked.quantize(asked.config(), tmp_path, tmp_path if asked.calibrates else None, "model", tmp_path)
    if asked.takes_adapters:
        with pytest.raises(Reached):
            asked.quantize_adapter(asked.config(), tmp_path, tmp_path, tmp_path)


def test_the_registry_knows_each_method_and_no_other() -> None:
    tags: tuple[QuantMethod, ...] = get_args(QuantMethod)
    assert {one.tag for one in METHODS} == set(tags) - {"none", "bnb"}
    assert set(STORED) == set(tags)
    assert max(map(len, tags)) <= artifacts.c.quant_method.type.length
