"""Memory and tokens follow from a run with the same inputs on this machine, and from no other."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from flows import recipe as recipes
from flows.planning import clock as clocks
from flows.planning.clock import clock_here
from flows.planning.estimate import Machine, StageEstimate, describe_base, estimate
from flows.planning.rates import ComputeRates
from flows.recipe import Recipe
from flows.run import arithmetic
from flows.run.fingerprint import pinned
from flows.settings import Settings
from registry import Artifact, Registry
from registry.artifacts import QuantSpec
from registry.catalog import ResourceUse
from tests.flows import lineages
from tests.flows.lineages import base_reference, publish

PICO = describe_base("pico:0")
LAPTOP = Machine(memory_available=16_000_000_000, disk_free=10**12, cpu_count=2)
MEASURED = 987_654_321
TOKENS = 4175


def recipe_of(*overrides: str) -> Recipe:
    dtypes = ["train.nf4.compute_dtype=float32", "evaluate.compute_dtype=float32"]
    return recipes.load("pico-smoke", [*dtypes, *overrides])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose executions are recorded as a flow does, each with the same peak."""
    started = datetime(2026, 11, 29, tzinfo=UTC)
    use = ResourceUse(started, 20.0, MEASURED, arithmetic.this_machine())
    monkeypatch.setattr(lineages, "USE", use)
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TUNELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(clocks, "rates_here", lambda *_: ComputeRates())
    monkeypatch.setattr("flows.planning.machine._imports", lambda *_: 592_000_000)
    return tmp_path / "home"


def record(home: Path, frozen: str = "dequantized") -> dict[str, Artifact]:
    """What a run of the recipe leaves: base, dataset, adapter, merge, and the merge's evaluation."""
    recipe = recipe_of()
    known: dict[str, Any] = {"base": base_reference(), "metrics": {"parameters": PICO.parameters}}
    plain = QuantSpec(method="none")
    with Registry.open(home) as registry:
        base = publish(
            registry, "base", "resolve", {"a": b"1"}, quant=plain, config=pinned(recipe.base), **known
        )
        data = publish(registry, "dataset", "prepare", {"a": b"2"}, config=pinned(recipe.prepare))
        adapter = publish(
            registry, "adapter", "train", {"a": frozen.encode()}, (("adapter", base), ("trained_on", data)),
            base=base_reference(), config=recipe.train.model_dump(mode="json"), metrics={"tokens": TOKENS},
            quant=QuantSpec(method="bnb", effective={"frozen_weights": frozen}),
        )  # fmt: skip
        merged = publish(
            registry, "merged", "merge", {"a": b"4"}, (("merge", base), ("merge", adapter)), quant=plain,
            config=recipe.merge.model_dump(mode="json"), **known,
        )  # fmt: skip
        ladder = [
            {"kind": "fidelity", "name": name, "chats": 8, "tokens": 16} for name in ("fidelity", "fold")
        ]
        tree = recipe.evaluate.model_dump(mode="json")
        publish(
            registry, "evaluation", "evaluate", {"a": b"5"},
            (("evaluation_of", merged), ("evaluated_on", data)),
            config={**tree, "tasks": [*tree["tasks"], *ladder]}, **known,
        )  # fmt: skip
        publish(
            registry, "quantized", "quantize", {"a": b"6"}, (("quantized", merged),),
            quant=QuantSpec(method="gguf"), config=recipe.quantize[0].model_dump(mode="json"), **known,
        )  # fmt: skip
    return {"train adapter": adapter, "merge": merged}


def rows(*overrides: str) -> dict[str, StageEstimate]:
    clock = clock_here(PICO, Settings())
    return {row.stage: row for row in estimate(recipe_of(*overrides), PICO, LAPTOP, clock)}


def test_each_stage_takes_what_it_took(home: Path) -> None:
    before = rows()
    assert not any(row.memory_basis for row in before.values())
    made = record(home)
    after = rows()
    assert {row.memory_bytes for row in after.values()} == {MEASURED}
    for stage, artifact in made.items():
        expected = f"{artifact.manifest.kind} {artifact.id[:12]}, made here on 2026-11-29"
        assert after[stage].memory_basis == expected


@pytest.mark.parametrize(
    ("override", "others"),
    [
        ("train.batch_size=4", {"train adapter"}),
        ("train.lora.rank=4", {"train adapter"}),
        ("evaluate.batch_size=4", {"evaluate"}),
        ("ladder.chats=4", {"evaluate"}),
        ("merge.base=nf4", {"merge"}),
        ("prepare.max_length=32", {"prepare data", "train adapter", "evaluate"}),
    ],
)
def test_other_inputs_are_reckoned(override: str, others: set[str], home: Path) -> None:
    record(home)
    after = rows(override)
    assert {stage for stage, row in after.items() if not row.memory_basis} == others


def test_what_holds_nothing_may_differ(home: Path) -> None:
    record(home)
    after = rows("train.learning_rate=0.001", "train.max_steps=3", "train.seed=7")
    assert after["train adapter"].memory_basis


def test_weights_held_otherwise_take_other_memory(home: Path) -> None:
    record(home, frozen="packed")
    assert not rows()["train adapter"].memory_basis


def test_a_run_as_long_says_how_many_tokens_there_are(home: Path) -> None:
    record(home)
    assert rows()["train adapter"].seconds == pytest.approx(20.0)
    longer = rows("train.max_steps=80", "train.epochs=2")["train adapter"].seconds
    assert longer is not None
    assert longer > 20


def test_the_largest_of_the_latest_counts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(home)
    monkeypatch.setattr(lineages, "USE", replace(lineages.USE, peak_bytes=MEASURED + 5))
    recipe = recipe_of()
    with Registry.open(home) as registry:
        publish(registry, "dataset", "prepare", {"a": b"again"}, config=pinned(recipe.prepare))
        monkeypatch.setattr(lineages, "USE", replace(lineages.USE, peak_bytes=None))
        publish(registry, "dataset", "prepare", {"a": b"not measured"}, config=pinned(recipe.prepare))
    assert rows()["prepare data"].memory_bytes == MEASURED + 5


def test_check_names_what_was_made(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = record(home)
    overrides = ["train.nf4.compute_dtype=float32", "evaluate.compute_dtype=float32"]
    cli.main(["check", "pico-smoke", *[word for one in overrides for word in ("--set", one)]])
    text = " ".join(capsys.readouterr().out.split())
    assert "Memory as measured with the same inputs: resolve base (base " in text
    assert f"train adapter (adapter {made['train adapter'].id[:12]}, made here on 2026-11-29)" in text
