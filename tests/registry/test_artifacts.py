from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from registry.artifacts import BaseReference, FileEntry, Manifest, QuantSpec, canonical, memo_key

FILES = {"a.txt": FileEntry(sha256="0" * 64, size=1)}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def manifest(**changes: Any) -> Manifest:
    given = {
        "kind": "dataset",
        "stage": "prepare",
        "stage_version": 1,
        "config": {},
        "toolchain": {},
        "files": FILES,
    }
    return Manifest.model_validate({**given, **changes})


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_id_survives_json_and_ignores_key_order(config: dict[str, Any]) -> None:
    one = manifest(config=config)
    assert Manifest.model_validate_json(one.model_dump_json()).id == one.id
    assert manifest(config=dict(reversed(config.items()))).id == one.id
    assert json.loads(canonical(one.model_dump(mode="json")))["config"] == config


def test_id_changes_with_every_field() -> None:
    ids = {
        manifest().id,
        manifest(kind="evaluation").id,
        manifest(stage="other").id,
        manifest(stage_version=2).id,
        manifest(config={"a": 1}).id,
        manifest(toolchain={"a": "1"}).id,
        manifest(metrics={"a": 1}).id,
        manifest(parents=[{"relation": "trained_on", "id": "1" * 64}]).id,
        manifest(files={"b.txt": FILES["a.txt"]}).id,
    }
    assert len(ids) == 9


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["config", "metrics"])
def test_numbers_that_are_not_finite_are_refused_by_name(number: float, field: str) -> None:
    with pytest.raises(ValidationError, match=rf"{field}\.loss\[1\]\.deep is"):
        manifest(**{field: {"loss": [1.0, {"deep": number}]}})


def test_quant_numbers_are_finite(base: BaseReference) -> None:
    with pytest.raises(ValidationError, match=r"quant\.effective\.bits is nan"):
        manifest(kind="base", base=base, quant=QuantSpec(method="none", effective={"bits": math.nan}))


def test_unsafe_file_names_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"'\.\.' part"):
        manifest(files={"../a": FILES["a.txt"]})


@pytest.mark.parametrize("kind", ["base", "adapter", "merged", "quantized"])
def test_a_model_names_its_base_and_quantization(kind: str, base: BaseReference) -> None:
    with pytest.raises(ValidationError, match="must carry a base reference and a quant spec"):
        manifest(kind=kind, base=base)


def test_memo_key_depends_on_each_part() -> None:
    parts: list[tuple[Any, ...]] = [
        ("train", 1, {"a": 1}, {"base": "x"}, {"torch": "2"}),
        ("merge", 1, {"a": 1}, {"base": "x"}, {"torch": "2"}),
        ("train", 2, {"a": 1}, {"base": "x"}, {"torch": "2"}),
        ("train", 1, {"a": 2}, {"base": "x"}, {"torch": "2"}),
        ("train", 1, {"a": 1}, {"model": "x"}, {"torch": "2"}),
        ("train", 1, {"a": 1}, {"base": "x"}, {"torch": "3"}),
    ]
    assert len({memo_key(*part) for part in parts}) == len(parts)
