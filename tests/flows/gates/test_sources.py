"""Which evaluations a gate takes for measurements of the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.gates.gate import GatePolicy, decide
from flows.gates.sources import _likeness, from_registry
from registry import Artifact, Registry
from tests.flows.evaluation_files import BAD, GOOD, NF4, POLICY, TASK, Lineage, evaluation
from tests.flows.lineages import family, publish


@pytest.mark.parametrize(
    ("kinds", "alike"), [(("lm-eval",), True), (("heldout",), False), (("lm-eval", "heldout"), False)]
)
def test_data_matters_only_to_tasks_that_ask_its_rows(
    tmp_path: Path, kinds: tuple[str, ...], alike: bool
) -> None:
    """A base is measured once on items of a task's own, whatever data the candidates learned from."""
    tasks: dict[str, dict[str, Any]] = {kind: {"kind": kind, "name": kind} for kind in kinds}

    def measured(registry: Registry, base: Artifact, *data: Artifact) -> Artifact:
        parents = (("evaluation_of", base), *(("evaluated_on", one) for one in data))
        metrics = {"tasks": {key: {} for key in tasks}}
        config = {"tasks": list(tasks.values()), "seed": 0}
        return publish(
            registry,
            "evaluation",
            "evaluate",
            {"results.json": b"{}"},
            parents,
            config=config,
            metrics=metrics,
        )

    with Registry.open(tmp_path / "home") as registry:
        made = family(registry)
        of_base = measured(registry, made["base"])
        of_adapter = measured(registry, made["adapter"], made["dataset"])
        assert (_likeness(of_base, set(tasks)) == _likeness(of_adapter, set(tasks))) == alike


def of_validation(results: dict[str, Any], _: object) -> None:
    results["tasks"]["heldout"]["config"] = {"split": "validation"}


def test_what_a_sweep_chose_by_is_no_evidence(tmp_path: Path) -> None:
    """It is newer than the evaluation on test rows, and of the same models."""
    policy = GatePolicy.model_validate({"tasks": POLICY["tasks"][:1]})
    with Registry.open(tmp_path / "home") as registry:
        line = Lineage(registry)
        line.evaluate(line.base, BAD)
        judged = line.evaluate(line.adapter, GOOD)
        by_choice = {**TASK, "split": "validation"}
        for model, scores in ((line.base, GOOD), (line.adapter, BAD)):
            parents = [("evaluation_of", model), ("evaluated_on", line.dataset)]
            if model is line.adapter:
                parents.insert(1, ("evaluation_of", line.base))
            publish(
                registry,
                "evaluation",
                "evaluate",
                evaluation(scores, of_validation, subject=model.id, nf4=NF4),
                tuple(parents),
                base=model.manifest.base,
                config={"tasks": [by_choice], "seed": 0, "nf4": NF4},
                metrics={"tasks": {"heldout": {}}, "fidelity": {}},
            )
        found = from_registry(registry, policy, line.adapter, None)
        assert found.evidence.artifact_id == judged.id
        assert decide(policy, found.evidence, found.references, found.facts).verdict == "pass"
        named = {"candidate": registry.evaluations(line.adapter.id)[-1]}
        found = from_registry(registry, policy, line.adapter, None, evaluations=named)
        decision = decide(policy, found.evidence, found.references, found.facts)
        assert decision.verdict == "invalid"
        assert "the candidate was asked validation rows, by which settings" in decision.rules[0].sentence
