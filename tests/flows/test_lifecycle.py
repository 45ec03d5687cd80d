"""The order of a run's steps, and what each is given: roles in this order are part of a result's id."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from pydantic import BaseModel

from flows.errors import Usage
from flows.lifecycle import lifecycle
from flows.outcome import RunOutcome
from flows.recipe import load
from flows.run.progress_view import ProgressView
from flows.run.stage_row import Form, StoppedStep
from flows.run.step import Run
from registry import Registry
from stages.config.evaluate import EvaluateConfig, HeldoutTask, LmEvalTask

BASE = SimpleNamespace(source="hub:acme/Tiny-1B")
KINDS = {
    "resolve": "base",
    "prepare": "dataset",
    "train": "adapter",
    "merge": "merged",
    "quantize": "quantized",
}


class Told:
    """A run that does nothing and notes what it was told to do."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, Form | None, list[str]]] = []
        self.registry: Any = SimpleNamespace(name=lambda id_, name: 1)

    def step(
        self, stage: str, config: BaseModel, label: str, form: Form | None = None, /, **parents: Any
    ) -> Any:
        self.steps.append((label, form, list(parents)))
        quant = SimpleNamespace(merge_base="16bit")
        manifest = SimpleNamespace(kind=KINDS.get(stage, "evaluation"), base=BASE, quant=quant)
        return SimpleNamespace(id=label, manifest=manifest)


def test_the_steps_of_a_run() -> None:
    run, outcome = Told(), RunOutcome()
    recipe = load("pico-smoke", ["adapter.base=Q8_0", "gate=null", "promote=null", "deploy=null"])
    lifecycle(recipe, cast(Run, run), outcome)
    sources = ["base", "dataset"]
    assert run.steps == [
        ("resolve base", None, []),
        ("prepare data", None, ["base"]),
        ("evaluate base NF4", "base", ["model", "dataset"]),
        ("train adapter", None, sources),
        ("evaluate tuned NF4", "tuned", ["model", "adapter", *sources]),
        ("merge", "merged", ["base", "adapter"]),
        ("evaluate merged", "merged", ["model", "reference_adapter", *sources]),
        ("quantize gguf-q8_0", "quantized", ["model"]),
        ("evaluate gguf-q8_0", "quantized", ["model", "reference", *sources]),
        ("quantize base Q8_0", "apart", ["model"]),
        ("quantize adapter F16", "apart", ["model", "base"]),
        ("evaluate adapter on base Q8_0", "apart", ["model", "adapter", *sources, "reference_adapter"]),
    ]
    assert [(c.form, c.name, c.label) for c in outcome.candidates] == [
        ("base", "base NF4", "base NF4"),
        ("tuned", "tuned NF4 + adapter", "tuned NF4 + adapter"),
        ("merged", "merged", "merged float16"),
        ("quantized", "gguf-q8_0", "gguf-q8_0"),
        ("apart", "adapter", "adapter on base Q8_0"),
    ]
    assert {candidate.name for candidate in outcome.candidates} >= set(recipe.made)
    assert outcome.resident is not None
    assert outcome.resident.name == "tiny-1b-q8_0@1"


PAIRS = ("prepare.format=preferences", "train.method=dpo", "gate=null", "promote=null", "deploy=null")


def trained(tmp_path: Path, *overrides: str, registry: Any = None) -> tuple[Told, RunOutcome]:
    """What a run of pairs was told until it had measured what it trained."""
    file = tmp_path / "recipe.yaml"
    prepare = {"source": "path:pairs.jsonl"}
    tree = {"name": "pairs", "base": {"source": "pico:0"}, "prepare": prepare, "merge": {"base": "16bit"}}
    file.write_text(yaml.safe_dump(tree))
    run, outcome = Told(), RunOutcome()
    if registry is not None:
        run.registry = registry
    lifecycle(load(str(file), [*PAIRS, *overrides]), cast(Run, run), outcome)
    return run, outcome


def test_training_on_preferences_goes_on_from_the_first_training(tmp_path: Path) -> None:
    run, outcome = trained(tmp_path)
    sources = ["base", "dataset"]
    assert run.steps[3:8] == [
        ("train adapter", None, sources),
        ("evaluate before preferences", "started", ["model", "adapter", *sources]),
        ("train on preferences", None, [*sources, "adapter"]),
        ("evaluate tuned NF4", "tuned", ["model", "adapter", "reference_adapter", *sources]),
        ("merge", "merged", ["base", "adapter"]),
    ]
    assert [candidate.model.id for candidate in outcome.candidates[1:3]] == [
        "train adapter", "train on preferences",
    ]  # fmt: skip
    assert outcome.adapter is not None
    assert outcome.adapter.id == "train on preferences"
    run, _ = trained(tmp_path, "ladder=null")
    assert ("evaluate tuned NF4", "tuned", ["model", "adapter", *sources]) in run.steps


def test_or_from_a_fresh_or_a_named_adapter(tmp_path: Path) -> None:
    run, _ = trained(tmp_path, "train.dpo.start=base")
    sources = ["base", "dataset"]
    assert run.steps[3:5] == [
        ("train on preferences", None, sources),
        ("evaluate tuned NF4", "tuned", ["model", "adapter", *sources]),
    ]
    kinds = {"support@3": "adapter", "rows": "dataset"}
    there = {ref: SimpleNamespace(id=ref, manifest=SimpleNamespace(kind=kind)) for ref, kind in kinds.items()}
    registry = SimpleNamespace(get=there.__getitem__)
    run, _ = trained(tmp_path, "train.dpo.start=support@3", registry=registry)
    assert run.steps[3:5] == [
        ("evaluate before preferences", "started", ["model", "adapter", *sources]),
        ("train on preferences", None, [*sources, "adapter"]),
    ]
    with pytest.raises(Usage, match=r"train\.dpo\.start: rows is a dataset; expected an adapter"):
        trained(tmp_path, "train.dpo.start=rows", registry=registry)


def test_the_base_is_measured_once_for_all_who_ask_it_the_same() -> None:
    """Tasks with items of their own do not depend on data; questions are asked under its system message."""
    own, heldout = LmEvalTask(name="own", path="/tasks"), HeldoutTask()
    for asked, parents in (
        (EvaluateConfig(tasks=(own,)), ["model"]),
        (EvaluateConfig(tasks=(own, heldout)), ["model", "dataset"]),
        (EvaluateConfig(tasks=(own,), questions=("Why?",)), ["model", "dataset"]),
    ):
        run = Told()
        recipe = load("pico-smoke", ["adapter.base=Q8_0", "gate=null", "promote=null", "deploy=null"])
        lifecycle(recipe.model_copy(update={"evaluate": asked}), cast(Run, run), RunOutcome())
        assert ("evaluate base NF4", "base", parents) in run.steps


def test_a_failed_step_keeps_which_form_it_was_to_make(tmp_path: Path) -> None:
    def fail() -> Any:
        raise ValueError("NaN in layer 3")

    def stop() -> Any:
        raise KeyboardInterrupt

    with Registry.open(tmp_path / "home") as registry, ProgressView() as view:
        run = Run(registry, view, tmp_path)
        with pytest.raises(ValueError, match="NaN"):
            run.task("merge", "merge into nf4", fail, "merged")
        with pytest.raises(ValueError, match="NaN"):
            run.task("train", "train adapter", fail)
        with pytest.raises(KeyboardInterrupt):
            run.task("quantize", "quantize gguf-q8_0", stop, "quantized")
        assert run.stopped == [StoppedStep("merge into nf4", "merged", "NaN in layer 3")]
