"""What trials are compared by: the gate's own metric, asked of validation rows alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from flows.errors import InvalidRecipe
from flows.recipe import load
from flows.sweep.config import Objective
from flows.sweep.target import target
from registry import Artifact
from stages.errors import InvalidInput

PAIRS = ("prepare.format=preferences", "train.method=dpo", "gate=null", "promote=null", "deploy=null")
ALONE = ("gate=null", "promote=null", "deploy=null")


def test_by_default_it_is_what_the_gate_asks_to_improve() -> None:
    found = target(load("demo"), None)
    assert (found.asked, found.metric) == ("routing", "exact_match")
    assert (found.task.name, found.task.split) == ("routing on validation", "validation")
    rules = (
        "gate.tasks=[{task: routing, metric: exact_match, role: keep, against: parent, margin: 0.1}, "
        "{task: routing, metric: choice_acc, role: improve, against: baseline}]"
    )
    assert target(load("demo", [rules]), None).metric == "choice_acc"
    assert target(load("pico-smoke"), None).metric == "exact_match", "a rule to keep is better than none"
    metrics = "evaluate.tasks.0.metrics=[rouge_l, exact]"
    assert target(load("demo", [metrics, *ALONE]), None).metric == "rouge_l"
    assert target(load("demo", [*PAIRS, "evaluate.tasks=[{kind: preference}]"]), None).metric == "preferred"
    labels = ("prepare.format=unpaired-preferences", *ALONE, "evaluate.tasks=[{kind: labelled}]")
    assert target(load("demo", labels), None).metric == "roc_auc"


def test_only_what_gives_the_score_is_measured() -> None:
    recipe = load("demo", ["evaluate.tasks.0.metrics=[exact, rouge_l, chrf]"])
    config = target(recipe, Objective(task="routing", metric="chrf")).config(recipe)
    (task,) = config.tasks
    tree: dict[str, Any] = task.model_dump()
    assert [metric["kind"] for metric in tree["metrics"]] == ["chrf"]
    assert (tree["choice"], tree["max_new_tokens"], config.questions) == (False, 12, ())
    assert config.nf4 == recipe.train.nf4
    choice: Any = target(recipe, Objective(task="routing", metric="choice_acc")).task
    assert (choice.choice, [metric.kind for metric in choice.metrics]) == (True, ["exact"])


@pytest.mark.parametrize(
    ("overrides", "objective", "expected"),
    [
        ([], ("routin", "exact_match"), "objective.task: 'routin' is not a task of evaluate.tasks; did you"),
        ([], ("routing", "exact"), "objective.metric: 'exact' is not a metric of the task routing"),
        (
            [*ALONE, "evaluate.tasks=[{kind: lm-eval, name: mine, path: /tasks}]"],
            ("mine", "acc"),
            "objective.task: mine is of kind lm-eval, which has no validation rows",
        ),
        ([*ALONE, "evaluate.tasks=[{kind: lm-eval, name: mine, path: /tasks}]"], None, "no task on held-out"),
        (["prepare.split.validation=0"], None, "prepare.split.validation: 0 leaves no rows to choose by"),
        (
            ["evaluate.tasks.0.metrics=[{kind: judge, gguf: /m, compare: pairwise, answers: /old.jsonl}]"],
            ("routing", "judge"),
            "objective.metric: judge compares with recorded answers (/old.jsonl)",
        ),
    ],
)
def test_what_validation_rows_cannot_give_is_refused(
    overrides: list[str], objective: tuple[str, str] | None, expected: str
) -> None:
    asked = Objective(task=objective[0], metric=objective[1]) if objective else None
    with pytest.raises(InvalidRecipe) as refused:
        target(load("demo", overrides), asked)
    assert expected in str(refused.value)


def test_a_score_that_the_data_do_not_give_is_named() -> None:
    found = target(load("demo"), Objective(task="routing", metric="json_valid"))
    scored = {"routing on validation": {"exact_match": {"value": 0.5}}}
    evaluation = cast(Artifact, SimpleNamespace(manifest=SimpleNamespace(metrics={"tasks": scored})))
    with pytest.raises(InvalidInput, match="the validation rows give no json_valid; they give exact_match"):
        found.score(evaluation)
