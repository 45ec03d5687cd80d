"""The other answer of each pair: the expected one, or what another evaluation recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.config.judge_metric import JudgeMetric
from stages.errors import InvalidInput
from stages.formats.messages import asked

Chat = Sequence[Mapping[str, Any]]


def opponents(metric: JudgeMetric, chats: Sequence[Chat], references: Sequence[str]) -> list[str]:
    """The answer that each item's is compared with; `chats` without their answers.

    Raises `InvalidInput` where the metric's file cannot be read, or lacks the answer to a question.
    """
    if metric.answers is None:
        return list(references)
    recorded, found = recorded_answers(metric), []
    for number, chat in enumerate(chats):
        question = asked(chat)
        if question not in recorded:
            raise InvalidInput(
                f"metric {metric.name}: {metric.answers} has no answer to item {number}, {question[:80]!r}; "
                "give the samples file of an evaluation on the same rows"
            )
        found.append(recorded[question])
    return found


def recorded_answers(metric: JudgeMetric) -> dict[str, str]:
    """Question → answer, of the file that the metric names. Raises `InvalidInput`."""
    assert metric.answers is not None
    file = Path(metric.answers).expanduser()
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise InvalidInput(
            f"metric {metric.name}: answers {metric.answers} cannot be read ({error}); give the samples file "
            "of an evaluation, samples_TASK.jsonl"
        ) from None
    answers: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        row = _row(line)
        if row is None:
            raise InvalidInput(
                f"metric {metric.name}: {file.name} line {number} is not a JSON object with the texts "
                "`asked` and `answer`, as an evaluation's samples have them"
            )
        if answers.setdefault(row[0], row[1]) != row[1]:
            raise InvalidInput(
                f"metric {metric.name}: {file.name} line {number} answers {row[0][:80]!r} again, and "
                "otherwise; leave one of the lines out"
            )
    return answers


def _row(line: bytes) -> tuple[str, str] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    question, answer = (row.get("asked"), row.get("answer")) if isinstance(row, dict) else (None, None)
    return (question, answer) if isinstance(question, str) and isinstance(answer, str) else None
