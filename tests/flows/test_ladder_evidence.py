"""The ladder of a run, from what the registry holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.ladder.evidence import ladder_of
from flows.ladder.model import Ladder
from flows.outcome import Outcome
from flows.run.stage_row import StageRow
from registry import Artifact, Registry
from registry.artifacts import QuantSpec
from tests.flows.lineages import family, publish
from tests.flows.test_ladder import PARITY, WEIGHTS, fidelity

GPTQ = {"method": "gptq", "bits": 4}
TESTED = {
    "tasks": {}, "fidelity": {"fidelity": fidelity(0.01)}, "parity": PARITY, "weights": WEIGHTS,
}  # fmt: skip


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "home") as opened:
        yield opened


def measured(registry: Registry, model: Artifact, metrics: dict[str, Any]) -> tuple[Artifact, Artifact]:
    files = {"results.json": b'{"tasks": {}}'}
    parents = (("evaluation_of", model),)
    base = model.manifest.base
    return model, publish(registry, "evaluation", "evaluate", files, parents, base=base, metrics=metrics)


def climbed(registry: Registry, made: dict[str, Artifact], *rows: StageRow) -> Ladder:
    outcome = Outcome(adapter=made["adapter"])
    for name in ("base", "adapter", "merged", "gptq"):
        outcome.measured(name, *measured(registry, made[name], TESTED if name != "base" else {"tasks": {}}))
    found = ladder_of(registry, outcome, list(rows))
    assert found is not None
    return found


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
    assert ladder.breaks_at == "gptq"
    assert [finding.check for finding in ladder.rungs[-1].findings] == ["provenance"]
    assert unrelated.id[:12] in str(ladder.cause)
    assert made["dataset"].id[:12] in str(ladder.cause)


@pytest.mark.parametrize(
    ("stage", "label", "kind"),
    [
        ("evaluate", "evaluate merged", "merged"),
        ("evaluate", "evaluate gguf-q8_0", "quantized"),
        ("evaluate", "choose the merge", "merged"),
        ("merge", "merge into nf4", "merged"),
        ("quantize", "quantize gguf-q8_0", "quantized"),
        ("deploy", "deploy on llama.cpp", "endpoint"),
    ],
)
def test_a_stage_that_failed_is_the_rung_that_broke(
    registry: Registry, stage: str, label: str, kind: str
) -> None:
    failed = StageRow(label, stage, None, "failed", 1.0, note="NaN in model.norm.weight")
    interrupted = StageRow("evaluate merged", "evaluate", None, "interrupted", 1.0, note="ctrl-c")
    ladder = climbed(registry, family(registry), interrupted, failed)
    assert (ladder.breaks_at, ladder.cause) == (label, "NaN in model.norm.weight")
    assert [rung.kind for rung in ladder.rungs if rung.findings] == [kind]


def test_a_run_that_compared_nothing_has_no_ladder(registry: Registry) -> None:
    made = family(registry)
    outcome = Outcome()
    outcome.measured("base", *measured(registry, made["base"], {"tasks": {}}))
    assert ladder_of(registry, outcome, []) is None
