"""What the data's files and first rows say, before anything is tokenized."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.recipe import Recipe
from stages.config.evaluate import MOST_CHOICES, HeldoutTask
from stages.config.judge_metric import JudgeMetric
from stages.config.metrics import FieldsMetric, MetricConfig, NumberMetric
from stages.config.prepare import PrepareConfig
from stages.config.user_metric import PythonMetric
from stages.errors import StageError
from stages.formats.messages import is_document, said
from stages.prepare import first_rows
from stages.scoring.judge.verdicts import require_usable
from stages.scoring.scorer import Scorer
from stages.scoring.user_function import user_scores

LARGEST = 2_000_000_000
"""Bytes of data files that are opened: opening takes their digest, at about 1 GB a second."""


@dataclass(frozen=True)
class FirstRows:
    """What the first rows told. `json_answers`: whether any of their answers is JSON; None: not known.

    `answers`: how many distinct ones they have; `targets`: those themselves.
    """

    problems: tuple[str, ...] = ()
    json_answers: bool | None = None
    answers: int = 0
    targets: tuple[str, ...] = ()


def look(config: PrepareConfig) -> FirstRows:
    """Why no row can be had from a source, as far as its files and its first rows tell.

    A dataset of the hub is asked for by the run itself, in its second step; rows of a feed were looked at
    when they came.
    """
    names = ("prepare", *(f"prepare.mix.{place}" for place in range(len(config.mix))))
    found = [_look(alone, name) for alone, name in zip(config.sources, names, strict=True)]
    json_answers = [one.json_answers for one in found]
    return FirstRows(
        tuple(problem for one in found for problem in one.problems),
        None if None in json_answers else any(json_answers),
        sum(one.answers for one in found),
        tuple(sorted({target for one in found for target in one.targets})),
    )


def _look(config: PrepareConfig, name: str) -> FirstRows:
    if config.source.startswith(("hub:", "feed:")) or _size(config.source) > LARGEST:
        return FirstRows()
    try:
        chats, rejected = first_rows(config)
    except StageError as error:
        return FirstRows((f"{name}.source: {error}",))
    if rejected and not chats:
        why = f"{name}.source: none of the first {len(rejected)} rows can be used; {rejected[0]}"
        return FirstRows((why,))
    answers = {said(chat[-1]) for chat in chats if not is_document(chat)}
    parse = any(map(_is_json, answers)) if chats else None
    return FirstRows(json_answers=parse, answers=len(answers), targets=tuple(sorted(answers)))


def choices(recipe: Recipe, rows: FirstRows) -> Iterator[str]:
    """A task that compares all answers, and more of them than it can compare, whatever else is taken out."""
    config = recipe.prepare
    kept = (1 - config.split.validation) * (1 - config.max_deduplicated) * (1 - config.max_rejected)
    most = min(rows.answers, config.max_rows or rows.answers)
    for number, task in enumerate(recipe.evaluate.tasks):
        if isinstance(task, HeldoutTask) and task.choice and most * kept > MOST_CHOICES:
            yield (
                f"evaluate.tasks.{number}.choice: compares at most {MOST_CHOICES} distinct answers, and the "
                f"first rows alone have {rows.answers}; set it to false"
            )


def metrics(recipe: Recipe, rows: FirstRows) -> Iterator[str]:
    """Metrics that cannot score any answer of the first rows, and schemas that are not schemas."""
    for number, task in enumerate(recipe.evaluate.tasks):
        if isinstance(task, HeldoutTask):
            for place, metric in enumerate(task.metrics):
                if (problem := _unscorable(metric, rows.targets)) is not None:
                    yield f"evaluate.tasks.{number}.metrics.{place}: {problem}"


def _unscorable(metric: MetricConfig, targets: Sequence[str]) -> str | None:
    """Why the metric can be used with none of the expected answers; None where it can, or none is known."""
    problems = []
    if isinstance(metric, NumberMetric | FieldsMetric):
        if isinstance(metric, FieldsMetric):
            metric = metric.model_copy(update={"fields": None})
        choices = [[[target]] for target in targets]
    else:
        choices = [[list(targets)]]
    for choice in choices:
        try:
            Scorer([metric], choice)
            if isinstance(metric, PythonMetric):
                user_scores(metric, [])
            if isinstance(metric, JudgeMetric):
                require_usable(metric)
            return None
        except StageError as error:
            problems.append(str(error))
    return problems[0] if problems else None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _size(source: str) -> int:
    """Bytes of what the source names; 0 where there is nothing, which opening it explains."""
    scheme, _, place = source.partition(":")
    if scheme == "path":
        path = Path(place).expanduser()
        files = [path] if path.is_file() else path.rglob("*") if path.is_dir() else []
    else:
        name, _, pattern = place.partition("/")
        try:
            listed = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            listed = []
        files = [Path(str(file.locate())) for file in listed if pattern and file.match(pattern)]
    return sum(file.stat().st_size for file in files if file.is_file())
