from __future__ import annotations

from typing import Any

import pytest

from registry.artifacts import BaseReference, Manifest, QuantSpec
from registry.compat.base_reference import check
from registry.errors import Incompatible


def adapter(base: BaseReference | None) -> Manifest:
    return Manifest(
        kind="adapter" if base else "dataset", stage="train", stage_version=1, config={},
        toolchain={}, files={}, base=base, quant=QuantSpec(method="bnb") if base else None,
    )  # fmt: skip


DIFFERENT: dict[str, Any] = {
    "revision": "b" * 40,
    "weights_digest": "1" * 64,
    "tokenizer_digest": "2" * 64,
    "tokenizer_length": 101,
    "embedding_rows": 256,
    "chat_template_digest": "3" * 64,
    "architecture": "MistralForCausalLM",
}


def test_the_same_base_fits_wherever_it_came_from(base: BaseReference) -> None:
    check(base, adapter(base))
    check(base, adapter(base.model_copy(update={"source": "path:tiny"})))


@pytest.mark.parametrize("field", DIFFERENT)
def test_a_difference_is_named_with_both_values(base: BaseReference, field: str) -> None:
    other = base.model_copy(update={field: DIFFERENT[field]})
    with pytest.raises(Incompatible) as caught:
        check(base, adapter(other))
    message = str(caught.value)
    expected, found = str(getattr(base, field)), str(DIFFERENT[field])
    assert f"{field}: expected {expected[:12]}" in message
    assert f"found {found[:12]}" in message
    assert not any(f"{name}: expected" in message for name in DIFFERENT if name != field)
    assert caught.value.exit_code == 3


def test_all_differences_are_named_at_once(base: BaseReference) -> None:
    with pytest.raises(Incompatible) as caught:
        check(base, adapter(base.model_copy(update=DIFFERENT)))
    assert all(f"{field}: expected" in str(caught.value) for field in DIFFERENT)


def test_what_names_no_base_fits_none(base: BaseReference) -> None:
    with pytest.raises(Incompatible, match="carries no base reference"):
        check(base, adapter(None))


def test_every_field_of_a_base_is_compared_or_its_source() -> None:
    assert set(DIFFERENT) | {"source"} == set(BaseReference.model_fields)
