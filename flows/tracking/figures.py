"""What trackers are told of a run: its recipe as parameters, losses as series, what it scored, its tags."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from flows.tracking.curves import tags as drawn

LONGEST = 500
"""Characters of a parameter or tag; trackers refuse or cut longer ones."""
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_\-./ ]+")


class Point(NamedTuple):
    """A number of a series, at an optimizer step."""

    name: str
    value: float
    step: int


def parameters(recipe: Mapping[str, Any] | None) -> dict[str, str]:
    """The recipe with dotted keys, each value as a text."""
    return {key: _cut(value) for key, value in _flat(recipe or {}, "")}


def points(report: Mapping[str, Any]) -> list[Point]:
    """The training's curves, by step."""
    found = [
        Point(_name(tag), value, int(row["step"]))
        for row in report.get("history") or ()
        for tag, value in drawn(row).items()
        if math.isfinite(value)
    ]
    return sorted(found, key=lambda point: point.step)


def summary(report: Mapping[str, Any]) -> dict[str, float]:
    """What each form of the model scored, with the ends of its interval, and how long the run took."""
    found = {"seconds": float(report["seconds"])}
    for row in report.get("models") or ():
        for task, score in row["scores"].items():
            name = _name(f"{row['label']}/{task}")
            found |= {name: score["value"], f"{name} low": score["low"], f"{name} high": score["high"]}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def labels(report: Mapping[str, Any]) -> dict[str, str]:
    """The run's id, recipe and verdict, and the artifact of each stage."""
    found = {"run": str(report["run_id"]), "recipe": str(report["recipe"])}
    if report.get("gate"):
        found["verdict"] = str(report["gate"]["verdict"])
    for row in report.get("stages") or ():
        if row.get("artifact_id"):
            found[_name(f"artifact/{row['label']}")] = str(row["artifact_id"])
    return {name: _cut(value) for name, value in found.items()}


def failed(report: Mapping[str, Any]) -> bool:
    """Whether it ended with an error, or was interrupted."""
    return any(row["state"] in ("failed", "interrupted") for row in report.get("stages") or ())


def _flat(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list) and tree:
        for place, value in enumerate(tree):
            yield from _flat(value, f"{path}.{place}")
    elif path:
        yield path, tree


def _name(text: str) -> str:
    """`text` with the characters that trackers take in a name."""
    return _NOT_IN_A_NAME.sub("_", text)[:250]


def _cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
