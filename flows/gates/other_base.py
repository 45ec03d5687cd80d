"""The live model over another base than the candidate's: the same rows, each asked with its own template."""

from __future__ import annotations

from typing import TypeVar

from flows.gates.evidence import Evidence, TaskEvidence
from registry import Artifact
from registry.compat.base_reference import differing

T = TypeVar("T")


def differ(one: Artifact, other: Artifact) -> bool:
    """Whether the two are, or were made of, different bases."""
    ours, theirs = one.manifest.base, other.manifest.base
    return ours is not None and theirs is not None and bool(differing(ours, theirs))


def asked_alike(candidate: Evidence, live: Evidence, called: str) -> Evidence:
    """`live` with its items named as the candidate's are, where both are one row of one split.

    An item's name covers its prompt, and so the chat template; what the row asks, and its place, do not.
    Only for evaluations on one dataset. What has no like keeps its name, so that the gate misses it.
    """
    both = candidate.tasks.keys() & live.tasks.keys()
    renamed = {name: _renamed(candidate.tasks[name], live.tasks[name]) for name in both}
    setting = {**live.setting, "chat_template": candidate.setting.get("chat_template")}
    changed = {"tasks": {**live.tasks, **renamed}, "setting": setting, "called": called}
    return live.model_copy(update=changed)


def _renamed(ours: TaskEvidence, theirs: TaskEvidence) -> TaskEvidence:
    rows = {(place, ours.asked.get(item)): item for item, place in ours.places.items()}
    names = {
        item: rows.get((theirs.places[item], theirs.asked[item]), item)
        for item in theirs.prompts
        if item in theirs.places and item in theirs.asked
    }
    return theirs.model_copy(
        update={
            "prompts": {
                names.get(item, item): ours.prompts.get(names.get(item, item), prompt)
                for item, prompt in theirs.prompts.items()
            },
            "scores": {metric: _under(names, scores) for metric, scores in theirs.scores.items()},
            "together": {
                metric: figure.model_copy(update={"counts": _under(names, figure.counts)})
                for metric, figure in theirs.together.items()
            },
            "asked": _under(names, theirs.asked),
            "clusters": _under(names, theirs.clusters),
            "places": _under(names, theirs.places),
            "answers": _under(names, theirs.answers),
            "scales": {
                metric: scale.model_copy(update={"others": _under(names, scale.others)})
                for metric, scale in theirs.scales.items()
            },
            "parts": _under(names, theirs.parts),
            "labels": {metric: _under(names, labels) for metric, labels in theirs.labels.items()},
        }
    )


def _under(names: dict[str, str], values: dict[str, T]) -> dict[str, T]:
    return {names.get(item, item): value for item, value in values.items()}
