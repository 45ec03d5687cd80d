"""Which evaluations a gate takes for measurements of the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.gates.sources import _likeness
from registry import Artifact, Registry
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
