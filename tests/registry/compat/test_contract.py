"""The compatibility contract: what it refuses, what it lets pass, and that every check of it matters."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from registry.artifacts import QuantSpec
from registry.compat.adapter import recipe_of
from registry.compat.contract import checkers, examine, require
from registry.compat.model import Check, Use, pair
from registry.errors import Incompatible
from stages.outline import model_outline
from tests.registry import compat_cases
from tests.registry.compat_cases import MISMATCHES, Case

ROOT = Path(__file__).resolve().parents[3]


def answers(case: Case, without: frozenset[str] = frozenset()) -> list[Check]:
    return examine(pair(case.base, case.dependent, case.use), without)


def refused(case: Case, without: frozenset[str] = frozenset()) -> set[str]:
    return {one.name for one in answers(case, without) if one.state == "refused"}


@pytest.mark.parametrize("wrong", MISMATCHES)
def test_each_mismatch_is_refused_for_its_own_reason(wrong: str) -> None:
    name, make = MISMATCHES[wrong]
    case = make()
    assert refused(case) == {name}
    assert refused(compat_cases.swapped(case)) == {name}, "whichever of the two is named first"
    with pytest.raises(Incompatible) as caught:
        require(pair(case.base, case.dependent, case.use), "this cannot be")
    told = next(one for one in answers(case) if one.state == "refused")
    assert told.todo
    assert all(word in str(caught.value) for word in (name, told.expected, told.found, told.todo))


def test_no_valid_pair_is_refused() -> None:
    cases = list(compat_cases.valid(200))
    assert not [(case, refused(case)) for case in cases if refused(case)]


def _packed(module: str, outputs: int, inputs: int) -> dict[str, Any]:
    """A module of 4 bits as GPTQ stores it."""
    return {f"{module}.qweight": ("I32", (inputs // 8, outputs)), f"{module}.scales": ("F16", (2, outputs))}


GPT2 = {"h.0.attn.c_attn.weight": ("F16", (64, 192)), "wte.weight": ("F16", (96, 64))}
WTE = "transformer.wte.weight"
END = {WTE: ("F16", (96, 64))}
FUSED = {"model.layers.0.mlp.gate_up_proj.weight": ("F16", (256, 64)),
         "model.layers.0.experts.down_proj": ("F16", (4, 64, 128))}  # fmt: skip
APART = {k: v for name in ("gate_proj", "up_proj")
         for k, v in _packed(f"model.layers.0.mlp.{name}", 128, 64).items()}  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "fits"),
    [
        (GPT2, {**_packed("transformer.h.0.attn.c_attn", 192, 64), **END, "lm_head.weight": END[WTE]}, True),
        (GPT2, {**_packed("transformer.h.0.attn.c_attn", 192, 64)}, False),
        (GPT2, {**_packed("transformer.h.0.attn.c_attn", 128, 64), **END}, False),
        (FUSED, {**APART, **{k: v for e in range(4) for k, v in
                             _packed(f"model.layers.0.experts.{e}.down_proj", 64, 128).items()}}, True),
        (FUSED, {**APART, **{k: v for e in range(3) for k, v in
                             _packed(f"model.layers.0.experts.{e}.down_proj", 64, 128).items()}}, False),
    ],
    ids=["gpt2", "without its embedding", "another width", "experts apart", "one expert less"],
)  # fmt: skip
def test_a_gptq_file_of_another_layout_is_known_by_its_weights(
    before: dict[str, Any], after: dict[str, Any], fits: bool
) -> None:
    """GPTQModel names and cuts tensors its own way where a family's files are not as Llama's."""
    base, dependent = (
        made.model_copy(update={"metrics": {"outline": model_outline({}, headers).model_dump(mode="json")}})
        for made, headers in ((compat_cases.base(), before), (compat_cases.gptq(), after))
    )
    assert ("tensors" in refused(Case(base, dependent, Use()))) is not fits


def test_another_arithmetic_on_the_same_nf4_values_is_said_and_not_refused() -> None:
    used = Use(recipe=compat_cases.recipe(compute_dtype="float32"))
    case = Case(compat_cases.base(), compat_cases.adapter(), used)
    (said,) = [one for one in answers(case) if one.name == "quant recipe"]
    assert said.state == "ok"
    assert said.todo == "the same NF4 values, trained in bfloat16 and used in float32"


def test_what_auto_became_is_compared() -> None:
    quant = QuantSpec(
        method="bnb",
        requested=compat_cases.NF4 | {"compute_dtype": "auto"},
        effective={"compute_dtype": "float32"},
    )
    trained = recipe_of(compat_cases.manifest("adapter", compat_cases.reference(), quant, {}))
    assert trained is not None
    assert trained.compute_dtype == "float32"


@pytest.mark.parametrize("name", list(checkers()))
def test_every_check_matters(name: str) -> None:
    """With one check switched off, something wrong would pass."""
    caught_by_it = [make() for check, make in MISMATCHES.values() if check == name]
    assert caught_by_it, f"no mismatch fixture is refused by {name!r}"
    assert all(refused(case) for case in caught_by_it)
    assert any(not refused(case, frozenset({name})) for case in caught_by_it)


def test_what_manifests_do_not_say_is_unknown_and_never_ok() -> None:
    silent = compat_cases.manifest("base", compat_cases.reference(), compat_cases.merged().quant, {})  # type: ignore[arg-type]
    foreign = compat_cases.adapter(trained=None)
    case = Case(silent, foreign, Use(compat_cases.vllm(), 512, naming=True))
    states = {one.name: one.state for one in answers(case)}
    unknown = {name for name, state in states.items() if state == "unknown"}
    assert unknown == {"targets", "quant recipe", "dtype", "context length", "engine architecture"}
    assert "refused" not in states.values()


def test_an_adapter_on_a_quantized_base_has_to_be_measured_there() -> None:
    states = {
        one.name: one
        for one in answers(Case(compat_cases.gptq(), compat_cases.adapter(), Use(compat_cases.vllm())))
    }
    assert states["quant recipe"].state == "unknown"
    assert "evaluate exactly this pair" in states["quant recipe"].todo
    assert states["targets"].state == "ok", "packed layers are recognized"


def test_what_is_unknown_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    require(
        pair(compat_cases.base(), compat_cases.adapter(trained=None)),
        "the adapter does not go onto this base",
    )
    assert "continuing with this base and this adapter; unknown: quant recipe" in caplog.text
    assert "does not go" not in caplog.text


def test_the_contract_takes_milliseconds_and_loads_no_library() -> None:
    cases = [*compat_cases.valid(20), *(make() for _, make in MISMATCHES.values())]
    started = time.perf_counter()
    for case in cases:
        answers(case)
    assert (time.perf_counter() - started) / len(cases) < 0.05
    code = (
        "import sys; from tests.registry import compat_cases;"
        "from tests.registry.compat.test_contract import refused;"
        "assert not refused(next(compat_cases.valid(1)));"
        "print(*{'torch', 'transformers', 'peft', 'safetensors', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_an_adapter_apart_is_ok_once_exactly_this_pair_was_measured() -> None:
    base, adapter = compat_cases.gguf(folded=None), compat_cases.gguf_adapter()
    use = Use(compat_cases.llama_cpp(), architectures=compat_cases.ARCHITECTURES, naming=True)
    before = answers(Case(base, adapter, use))
    assert {one.name for one in before if one.state != "ok"} == {"quant recipe"}
    measured = answers(Case(base, adapter, replace(use, measured=True)))
    assert {one.state for one in measured} == {"ok"}
    other = compat_cases.gguf_adapter(compat_cases.reference(weights_digest="1" * 64))
    against = answers(Case(base, other, replace(use, measured=True)))
    assert {one.name for one in against if one.state == "refused"} == {"weights_digest"}


def test_a_gguf_adapter_remembers_how_it_was_trained() -> None:
    assert recipe_of(compat_cases.gguf_adapter()) == compat_cases.recipe()
    assert recipe_of(compat_cases.gguf_adapter(trained=None)) is None
