"""What a recipe's judges name in the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.evaluation_plan import with_artifacts
from flows.recipe import Recipe, load
from registry import Registry
from registry.errors import NotFound
from stages.config.evaluate import EvaluateConfig, HeldoutTask
from tests.flows.evaluation_files import GOOD, Lineage


def judged_by(**settings: Any) -> Recipe:
    task = HeldoutTask.model_validate({"metrics": ["exact", {"kind": "judge", **settings}]})
    return load("demo").model_copy(update={"evaluate": EvaluateConfig(tasks=(task,))})


def test_a_judge_may_be_an_artifact_and_its_pairs_another_evaluations_answers(tmp_path: Path) -> None:
    with Registry.open(tmp_path / "home") as registry:
        made = Lineage(registry)
        recorded = made.evaluate(made.gguf, GOOD)
        names = {
            "gguf": f"artifact:{made.gguf.id[:12]}",
            "answers": f"artifact:{recorded.id}/samples_heldout.jsonl",
        }
        recipe = with_artifacts(judged_by(compare="pairwise", **names), registry)
        task = recipe.evaluate.tasks[0]
        assert isinstance(task, HeldoutTask)
        metric: Any = task.metrics[1]
        assert (Path(metric.gguf) / "model.gguf").read_bytes().startswith(b"GGUF")
        assert Path(metric.answers).read_text().startswith("{")
        with pytest.raises(NotFound):
            with_artifacts(judged_by(gguf="artifact:123456"), registry)


def test_a_recipe_without_any_stays_as_it_is(tmp_path: Path) -> None:
    with Registry.open(tmp_path / "home") as registry:
        recipe = judged_by(gguf=str(tmp_path / "judge.gguf"))
        assert with_artifacts(recipe, registry) is recipe
