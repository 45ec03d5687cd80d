"""`auto` is answered once for a run, in every section that asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.evaluation_plan import EvaluationPlan
from flows.recipe import Recipe, load
from flows.run.arithmetic import as_asked, settle, with_compute_dtype
from flows.settings import Settings
from registry.artifacts import QuantSpec
from stages.arithmetic import MachineSpeed, ProductRates
from stages.model_shape import describe_base


def speed(bfloat16: float) -> MachineSpeed:
    float32 = ProductRates(forward=40e9, grad_input=40e9, grad_weight=40e9)
    other = ProductRates(forward=bfloat16, grad_input=bfloat16, grad_weight=bfloat16)
    return MachineSpeed(
        identity="m", processor="a processor", device="cpu", threads=2, product=(256, 256, 512),
        float32=float32, bfloat16=other, native_bfloat16=bfloat16 > 48e9,
    )  # fmt: skip


@pytest.fixture
def recipe() -> Recipe:
    return load("demo", ["evaluate.nf4={}"])


def test_every_section_gets_the_one_answer(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        "flows.run.arithmetic.machine_speed", lambda *shape: asked.append(shape) or speed(2e9)
    )
    settled, answer = settle(recipe, describe_base("pico:0"), Settings(cache=Path("/nowhere")))
    assert [call[:2] for call in asked] == [(256, 512)]
    assert answer is not None
    assert answer.asked == (
        "train.nf4.compute_dtype",
        "evaluate.nf4.compute_dtype",
        "evaluate.compute_dtype",
        "quantize.0.compute_dtype",
    )
    assert answer.sentence == "computed in float32: bfloat16 is 20 times slower on this processor"
    assert '"compute_dtype":"auto"' in recipe.model_dump_json()
    assert '"compute_dtype":"auto"' not in settled.model_dump_json()
    plan = EvaluationPlan(settled)
    tasks = plan.tuned.config.tasks
    assert {task.nf4.compute_dtype for task in tasks if getattr(task, "nf4", None)} == {"float32"}
    assert plan.merge_choice.tasks[0].nf4.compute_dtype == "float32"


def test_nothing_is_measured_where_nothing_asks(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.run.arithmetic.machine_speed", lambda *shape: pytest.fail("measured"))
    explicit = with_compute_dtype(recipe, "bfloat16")
    assert settle(explicit, describe_base("pico:0"), Settings()) == (explicit, None)


def test_what_was_asked_stays_beside_what_it_became(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.run.arithmetic.machine_speed", lambda *shape: speed(200e9))
    settled, answer = settle(recipe, describe_base("pico:0"), Settings())
    assert settled.train.nf4.compute_dtype == "bfloat16"
    spec = QuantSpec(
        method="bnb", requested=settled.train.nf4.model_dump(), effective={"compute_dtype": "bfloat16"}
    )
    recorded = as_asked(spec, "train", answer)
    assert recorded is not None
    assert recorded.requested["compute_dtype"] == "auto"
    assert recorded.effective == {"compute_dtype": "bfloat16"}
    assert as_asked(spec, "prepare", answer) == spec
    assert as_asked(spec, "train", None) == spec
