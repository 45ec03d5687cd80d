"""The ladder of a run, from what the registry holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.candidate import Candidate
from flows.ladder.evidence import ladder_of
from flows.ladder.model import Ladder
from flows.outcome import RunOutcome
from flows.run.stage_row import Form, StoppedStep
from registry import Artifact, Registry
from registry.artifacts import QuantSpec
from tests.flows.ladder.test_ladder import PARITY, WEIGHTS, fidelity
from tests.flows.lineages import family, publish

GPTQ = {"method": "gptq", "bits": 4}
TESTED = {
    "tasks": {}, "fidelity": {"fidelity": fidelity(0.01)}, "parity": PARITY, "weights": WEIGHTS,
}  # fmt: skip


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "home") as opened:
        yield opened


def measured(registry: Registry, form: Form, model: Artifact, metrics: dict[str, Any]) -> Candidate:
    files = {"results.json": b'{"tasks": {}}'}
    parents = (("evaluation_of", model),)
    base = model.manifest.base
    score = publish(registry, "evaluation", "evaluate", files, parents, base=base, metrics=metrics)
    return Candidate(form, form, model, score)


def climbed(registry: Registry, made: dict[str, Artifact], *stopped: StoppedStep) -> Ladder:
    outcome = RunOutcome(adapter=made["adapter"])
    outcome.add(measured(registry, "base", made["base"], {"tasks": {}}))
    outcome.add(measured(registry, "tuned", made["adapter"], TESTED))
    outcome.add(measured(registry, "merged", made["merged"], TESTED))
    outcome.add(measured(registry, "quantized", made["gptq"], TESTED))
    ladder = ladder_of(registry, outcome, stopped)
    assert ladder is not None
    return ladder


def test_calibration_on_other_data_than_the_training_is_told(registry: Registry) -> None:
    made = family(registry)
    assert climbed(registry, made).breaks_at is None, "calibrated on the training data"
    unrelated = publish(
        registry, "dataset", "prepare", {"train.parquet": b"poems"}, (("tokenized_for", made["base"]),)
    )
    quant = QuantSpec(
        method="gptq", requested=GPTQ, effective={"bits": 4}, calibration_dataset=unrelated.id,
        merge_base="16bit",
    )  # fmt: skip
    made["gptq"] = publish(
        registry, "quantized", "quantize", {"config.json": b"{}", "model.safetensors": b"4 bits, other"},
        (("quantized", made["merged"]), ("calibrated_on", unrelated)),
        base=made["merged"].manifest.base, quant=quant, config=GPTQ,
    )  # fmt: skip
    ladder = climbed(registry, made)
    assert ladder.breaks_at == "quantized"
    assert [finding.check for finding in ladder.rungs[-1].findings] == ["provenance"]
    assert unrelated.id[:12] in str(ladder.cause)
    assert made["dataset"].id[:12] in str(ladder.cause)


@pytest.mark.parametrize("form", ["merged", "quantized", "apart", "endpoint"])
def test_a_step_that_failed_is_the_rung_that_broke(registry: Registry, form: Form) -> None:
    stopped = StoppedStep("quantize gguf-q8_0", form, "NaN in model.norm.weight")
    ladder = climbed(registry, family(registry), stopped)
    assert (ladder.breaks_at, ladder.cause) == (stopped.label, stopped.message)
    assert [rung.kind for rung in ladder.rungs if rung.findings] == [form]


def test_a_run_that_compared_nothing_has_no_ladder(registry: Registry) -> None:
    made = family(registry)
    outcome = RunOutcome()
    outcome.add(measured(registry, "base", made["base"], {"tasks": {}}))
    assert ladder_of(registry, outcome, []) is None
