"""What keeps two evaluations from being compared by a rule: each check yields its reasons, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from flows.gates.evidence import Evidence, TaskEvidence
from flows.gates.measured import differing_arithmetic
from flows.gates.policy import WORDS, TaskRule
from flows.gates.soundness import nf4_values


@dataclass(frozen=True)
class Comparison:
    """A rule with the two evaluations that it compares; `choosing`: on rows that settings are chosen by."""

    rule: TaskRule
    candidate: Evidence
    reference: Evidence
    min_items: int = 1
    choosing: bool = False

    @property
    def sides(self) -> tuple[tuple[str, Evidence], ...]:
        return (("the candidate", self.candidate), (called(self.rule, self.reference), self.reference))

    @property
    def tasks(self) -> tuple[TaskEvidence, TaskEvidence] | None:
        """Both sides' items, where both have some."""
        ours, theirs = (evidence.tasks.get(self.rule.task) for _, evidence in self.sides)
        return (ours, theirs) if ours is not None and theirs is not None else None


def called(rule: TaskRule, reference: Evidence | None) -> str:
    """What a rule's other side is, as far as it was looked at; else what the rule asks for."""
    return (reference.called if reference is not None else None) or WORDS[rule.against]


def _sound(pair: Comparison) -> Iterator[str]:
    for whose, evidence in pair.sides:
        yield from (f"{whose}: {problem}" for problem in evidence.problems)


def _measured(pair: Comparison) -> Iterator[str]:
    for whose, evidence in pair.sides:
        task = evidence.tasks.get(pair.rule.task)
        if task is None or pair.rule.metric not in task.scores:
            yield f"{whose} was not measured on {pair.rule.task} with {pair.rule.metric}"


def _not_chosen_by(pair: Comparison) -> Iterator[str]:
    for whose, evidence in pair.sides:
        task = evidence.tasks.get(pair.rule.task)
        if task is not None and task.split == "validation" and not pair.choosing:
            yield f"{whose} was asked validation rows, by which settings are chosen; evaluate it on test rows"


def _binary(pair: Comparison) -> Iterator[str]:
    if pair.rule.scores != "binary":
        return
    for whose, evidence in pair.sides:
        task = evidence.tasks.get(pair.rule.task)
        if task is None or pair.rule.metric in task.together:
            continue
        if not set(task.scores.get(pair.rule.metric, {}).values()) <= {0.0, 1.0}:
            yield (
                f"{pair.rule.metric} of {whose} has scores other than 0 and 1: set scores: real in the rule "
                "if that is right"
            )


def _together(pair: Comparison) -> Iterator[str]:
    if pair.tasks is None:
        return
    figures = [task.together.get(pair.rule.metric) for task in pair.tasks]
    if any(figures) and pair.rule.scores == "binary":
        yield f"{pair.rule.metric} is a figure of all items together: set scores: real in the rule"
    if len({figure.figure if figure else None for figure in figures}) > 1:
        yield f"{pair.rule.metric} is computed from all items together on one side only"


def _same(key: str, of_task: bool, pair: Comparison) -> Iterator[str]:
    sides: tuple[Any, ...] = pair.tasks or () if of_task else (pair.candidate, pair.reference)
    settings = [side.setting.get(key) for side in sides]
    if len(settings) == 2 and settings[0] != settings[1]:
        yield f"{key.replace('_', ' ')} differs ({settings[0]} against {settings[1]})"


def _same_nf4(pair: Comparison) -> Iterator[str]:
    ours, theirs = nf4_values(pair.candidate.nf4), nf4_values(pair.reference.nf4)
    if ours is not None and theirs is not None and ours != theirs:
        yield f"NF4 setting differs ({ours} against {theirs})"


def _same_arithmetic(pair: Comparison) -> Iterator[str]:
    differing = differing_arithmetic(pair.candidate.computed_with, pair.reference.computed_with)
    if differing is not None:
        yield differing


def _same_items(pair: Comparison) -> Iterator[str]:
    if pair.tasks is not None:
        alone = len(pair.tasks[0].prompts.keys() ^ pair.tasks[1].prompts.keys())
        if alone:
            yield f"{alone} items were measured on one side only; both must see the same items"


def _same_prompts(pair: Comparison) -> Iterator[str]:
    if pair.tasks is not None:
        reworded = _different(pair.tasks[0].prompts, pair.tasks[1].prompts)
        if reworded:
            yield f"{reworded} items were asked with different prompts"


def _same_clusters(pair: Comparison) -> Iterator[str]:
    if pair.tasks is not None:
        ours, theirs = pair.tasks
        moved = _different(ours.clusters, theirs.clusters) + len(
            ours.clusters.keys() ^ theirs.clusters.keys()
        )
        if moved:
            yield f"{moved} items are in another cluster"
        if ours.clusters and len(ours.clusters) != len(ours.prompts):
            yield f"{len(ours.prompts) - len(ours.clusters)} items have no cluster, the others have"


def _enough(pair: Comparison) -> Iterator[str]:
    if pair.tasks is not None and pair.rule.slice and not pair.tasks[0].prompts:
        name, _, value = pair.rule.slice.partition("=")
        yield (
            f"no item has {name}: {value!r}, in a column that prepare.slices keeps or in an expected answer "
            "that is a JSON object; take a value of the data"
        )
        return
    if pair.tasks is not None and len(pair.tasks[0].prompts) < pair.min_items:
        yield f"has {len(pair.tasks[0].prompts)} items, the policy asks for at least {pair.min_items}"


def _different(ours: dict[str, str], theirs: dict[str, str]) -> int:
    return sum(ours[item] != theirs[item] for item in ours.keys() & theirs.keys())


PAIR_CHECKS: dict[str, Callable[[Comparison], Iterable[str]]] = {
    "both are sound": _sound,
    "both have the metric": _measured,
    "no settings were chosen by the rows": _not_chosen_by,
    "scores are as the rule says": _binary,
    "figures of all items are taken as such": _together,
    "same harness": partial(_same, "harness", False),
    "same seed": partial(_same, "seed", False),
    "same chat template": partial(_same, "chat_template", False),
    "same NF4 setting": _same_nf4,
    "same arithmetic": _same_arithmetic,
    "same task config": partial(_same, "config_digest", True),
    "same few-shot examples": partial(_same, "fewshot", True),
    "same limit": partial(_same, "limit", True),
    "same items": _same_items,
    "same prompts": _same_prompts,
    "same clusters": _same_clusters,
    "enough items": _enough,
}


def problems(pair: Comparison) -> list[str]:
    """Every reason why the two evaluations cannot be compared by this rule."""
    return list(dict.fromkeys(reason for check in PAIR_CHECKS.values() for reason in check(pair)))
