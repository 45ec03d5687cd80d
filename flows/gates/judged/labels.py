"""People's labels of answers, from a file, put beside the items that they are about.

A label is about an answer to a question, whichever model gave it: it holds wherever that answer is found.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from flows.errors import Usage
from flows.gates.evidence import Evidence, Scale, TaskEvidence, text_digest
from flows.gates.soundness import is_number

EXPECTED = (
    "expected a JSON object with `label`, a number; `answer`, a text; `asked`, the question, or `item`, its "
    "digest; of pairs `other`, the answer compared with; and `metric` where only one metric is meant"
)
_KEYS = {"label", "answer", "asked", "item", "other", "metric", "task", "who"}


class Label(NamedTuple):
    """One line of the file. `abouts`: the item's digest, its question; of answers: digests of their text."""

    line: int
    abouts: frozenset[str]
    answer: str
    other: str | None
    metric: str | None
    task: str | None
    value: float


@dataclass(frozen=True)
class Labels:
    """A file of labels. `digest`: the file's sha256, which a decision cites."""

    name: str
    digest: str
    lines: tuple[Label, ...]


def read_labels(path: Path | None) -> Labels | None:
    """The labels in a file of JSON lines; None without a file. Raises `Usage` naming what is wrong."""
    if path is None:
        return None
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise Usage(f"labels {path}: cannot be read ({error})") from None
    lines = [
        _label(path, number, line) for number, line in enumerate(raw.splitlines(), start=1) if line.strip()
    ]
    if not lines:
        raise Usage(f"labels {path}: has no labels; {EXPECTED}")
    return Labels(path.name, hashlib.sha256(raw).hexdigest(), tuple(lines))


def _label(path: Path, number: int, line: bytes) -> Label:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    problem = _problem(row)
    if problem is not None:
        raise Usage(f"labels {path} line {number}: {problem}; {EXPECTED}")
    other = row.get("other")
    return Label(
        line=number,
        abouts=frozenset(row[key] for key in ("item", "asked") if key in row),
        answer=text_digest(row["answer"]),
        other=None if other is None else text_digest(other),
        metric=row.get("metric"),
        task=row.get("task"),
        value=float(row["label"]),
    )


def _problem(row: Any) -> str | None:
    if not isinstance(row, dict):
        return "is not a JSON object"
    if strange := sorted(row.keys() - _KEYS):
        return f"has the key {strange[0]!r}, which means nothing here"
    if not is_number(row.get("label")):
        return f"label is {json.dumps(row.get('label'))}, no number"
    if not isinstance(row.get("answer"), str):
        return "has no answer, so nobody knows what was labelled"
    if not row.keys() & {"item", "asked"}:
        return "has neither asked nor item"
    texts = ("item", "asked", "other", "metric", "task")
    wrong = next((key for key in texts if key in row and not isinstance(row[key], str)), None)
    return None if wrong is None else f"{wrong} is {json.dumps(row[wrong])}, no text"


def with_labels(evidence: Evidence, labels: Labels | None) -> Evidence:
    """The evidence with people's mean label beside each item that has one.

    Raises `Usage` for a label that is not on its metric's scale.
    """
    if labels is None:
        return evidence
    tasks = {
        name: task.model_copy(update={"labels": _of_task(name, task, labels)}) if task.scales else task
        for name, task in evidence.tasks.items()
    }
    return evidence.model_copy(update={"tasks": tasks})


def _of_task(name: str, task: TaskEvidence, labels: Labels) -> dict[str, dict[str, float]]:
    said: dict[tuple[str, str], list[Label]] = {}
    for label in labels.lines:
        if label.task in {None, name}:
            for about in label.abouts:
                said.setdefault((about, label.answer), []).append(label)
    found: dict[str, dict[str, float]] = {}
    for metric, scale in task.scales.items():
        found[metric] = {}
        for item, answer in task.answers.items():
            values = list(_values(labels, said, (item, task.asked.get(item)), answer, metric, scale, item))
            if values:
                found[metric][item] = sum(values) / len(values)
    return found


def _values(
    labels: Labels,
    said: Mapping[tuple[str, str], list[Label]],
    abouts: tuple[str, str | None],
    answer: str,
    metric: str,
    scale: Scale,
    item: str,
) -> Iterator[float]:
    """What people said of this answer to this item, by this metric; a line counts once."""
    found = {label.line: label for about in abouts if about for label in said.get((about, answer), ())}
    for label in found.values():
        if label.metric not in {None, metric} or label.other != scale.others.get(item):
            continue
        if not scale.lowest <= label.value <= scale.highest:
            raise Usage(
                f"labels {labels.name} line {label.line}: {label.value:g} is not on the scale of "
                f"{metric}, {scale.lowest:g} to {scale.highest:g}"
            )
        yield label.value
