"""A candidate over a new base against what is live over the old one: the same rows, two chat templates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.gates.gate import Decision, decide
from flows.gates.policy import GatePolicy
from flows.gates.sources import from_registry
from registry import Artifact, Registry
from registry.artifacts import QuantSpec
from tests.flows.evaluation_files import Lineage, Results, Row
from tests.flows.lineages import base_reference, publish

GOOD, BAD = [1.0] * 90 + [0.0] * 10, [1.0] * 20 + [0.0] * 80
POLICY = GatePolicy.model_validate(
    {
        "tasks": [
            {"task": "heldout", "metric": "exact_match", "role": "keep", "against": "live", "margin": 0.1}
        ]
    }
)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Lineage]:
    with Registry.open(tmp_path / "home") as registry:
        yield Lineage(registry)


def of_another_base(registry: Registry) -> Artifact:
    """The file that is live: made of a base with weights and a chat template of its own."""
    base = base_reference(source="hub:acme/Old-1B", weights_digest="5" * 64, chat_template_digest="6" * 64)
    return publish(
        registry, "quantized", "quantize", {"model.gguf": b"GGUF old"}, base=base,
        quant=QuantSpec(method="gguf", requested={"method": "gguf", "type": "Q4_K_M"}, merge_base="16bit"),
    )  # fmt: skip


def placed(_: Results, rows: list[Row]) -> None:
    for place, row in enumerate(rows):
        row["document"] = place


def other_template(results: Results, rows: list[Row]) -> None:
    """As the old base's template makes of the same rows, in another order of their digests."""
    placed(results, rows)
    results["chat_template"] = "older"
    for row in rows:
        row["item"] = hashlib.sha256(f"old {row['item']}".encode()).hexdigest()
        row["prompt_hash"] = hashlib.sha256(f"old {row['prompt_hash']}".encode()).hexdigest()
    rows.reverse()


def judged(made: Lineage, live: Artifact) -> Decision:
    case = from_registry(made.registry, POLICY, made.gguf, live)
    return decide(POLICY, case.evidence, case.references, case.facts)


def test_the_same_rows_are_compared_whatever_the_template(made: Lineage) -> None:
    live = of_another_base(made.registry)
    made.evaluate(made.gguf, GOOD, placed)
    made.evaluate(live, GOOD, other_template)
    decision = judged(made, live)
    assert decision.verdict == "pass", decision.rules
    (rule,) = decision.rules
    assert (rule.n, rule.discordant) == (100, 0), "each row against itself"
    assert "the channel's current artifact, over its own base hub:acme/Old-1B" in rule.sentence
    made.evaluate(made.gguf, BAD, placed)
    assert judged(made, live).verdict == "fail"


@pytest.mark.parametrize("damage", ["another question", "a row less", "no places"])
def test_what_is_not_the_same_row_is_never_compared(made: Lineage, damage: str) -> None:
    def changed(results: Results, rows: list[Row]) -> None:
        other_template(results, rows)
        if damage == "another question":
            rows[3]["asked"] = "something else"
        elif damage == "a row less":
            rows[3]["document"] = 1000
        else:
            for row in rows:
                del row["document"]

    live = of_another_base(made.registry)
    made.evaluate(made.gguf, GOOD, placed)
    made.evaluate(live, GOOD, changed)
    decision = judged(made, live)
    assert decision.verdict == "invalid"
    assert "were measured on one side only" in decision.rules[0].sentence


def test_another_template_of_the_same_base_stays_a_difference(made: Lineage) -> None:
    live = made.quantized("Q8_0")
    made.evaluate(made.gguf, GOOD, placed)
    made.evaluate(live, GOOD, other_template)
    decision = judged(made, live)
    assert decision.verdict == "invalid"
    assert "chat template differs" in decision.rules[0].sentence
