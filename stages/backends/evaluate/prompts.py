"""Held-out chats: as items of a task, and by their place in their split."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from stages.backends.chat import Message, encode, load_tokenizer
from stages.config.evaluate import EvaluateConfig, HeldoutTask
from stages.config.judge_metric import JudgeMetric
from stages.config.metrics import DEFAULT
from stages.config.user_metric import PythonMetric
from stages.contract import Parents
from stages.errors import InvalidInput
from stages.scoring.judge.opponent import opponents
from stages.scoring.judge.verdicts import require_usable
from stages.scoring.scorer import Scorer
from stages.scoring.tool_calls import as_text
from stages.scoring.user_function import Answered, user_scores

FRESH, VALIDATION = "fresh", "validation"
PREPARED = "what the prepare stage writes"
Chat = list[dict[str, Any]]


def items_of(task: HeldoutTask, dataset: Path) -> list[tuple[Chat, Chat]]:
    """Each item as a chat that ends with the expected answer, and the chat of the split that it is of.

    With `turns: all` every answer but those of weight 0, which nobody was to learn.
    """
    file = dataset / f"{task.split}.parquet"
    if task.turns == "last":
        return [(row, row) for row in read_split(file, task.max_items)]
    items: dict[str, tuple[Chat, Chat]] = {}  # chats that begin alike have those turns once
    for row in read_split(file):
        for k, message in enumerate(row):
            if message["role"] == "assistant" and k and message.get("weight") != 0:
                items.setdefault(json.dumps(row[: k + 1]), (row[: k + 1], row))
    return list(itertools.islice(items.values(), task.max_items))


def references(chat: Chat) -> list[str]:
    """The expected answers of an item; calls in the form that `stages.scoring.tool_calls` reads."""
    return [as_text(chat[-1])]


def check_metrics(config: EvaluateConfig, parents: Parents) -> None:
    """Raise `InvalidInput` where a metric cannot score the held-out rows, before a model is opened."""
    for task in config.tasks:
        if isinstance(task, HeldoutTask) and task.metrics != DEFAULT and "dataset" in parents:
            rows = [row for row, _ in items_of(task, parents["dataset"].path)]
            try:
                Scorer(task.metrics, [references(row) for row in rows])
                for metric in task.metrics:
                    if isinstance(metric, PythonMetric):
                        first = [Answered(references(row)[0], references(row), row[:-1]) for row in rows[:3]]
                        user_scores(metric, first)
                    if isinstance(metric, JudgeMetric):
                        require_usable(metric)
                        opponents(metric, [row[:-1] for row in rows], [references(row)[0] for row in rows])
            except InvalidInput as error:
                raise InvalidInput(f"task {task.name}: {error}") from None


def system_message(dataset: Path) -> str | None:
    """The system message that every row of the test split begins with, if there is one."""
    rows = read_split(dataset / "test.parquet")
    messages = {row[0]["content"] if row[0]["role"] == "system" else None for row in rows}
    return messages.pop() if len(messages) == 1 else None


def read_split(file: Path, limit: int | None = None) -> list[Chat]:
    """The chats of a split, in its order. Raises `InvalidInput` where there is none."""
    if not file.is_file():
        expected = "a feed, the only source with a split of its new rows" if file.stem == FRESH else PREPARED
        raise InvalidInput(f"{file.name} is not in the dataset; expected {expected}")
    rows: list[Chat] = pq.read_table(file, columns=["messages"])["messages"].to_pylist()
    if file.stem == FRESH and not rows:
        raise InvalidInput(
            "no row that came since the live model's data is held out: add rows to the feed, then run again"
        )
    if file.stem in ("test", VALIDATION) and not rows:
        raise InvalidInput(
            f"the dataset's {file.stem} split is empty; prepare it with split.{file.stem} above 0"
        )
    return rows[:limit]


def prompts(dataset: Path, base: Path, places: Sequence[int]) -> list[tuple[list[Message], str, int]]:
    """(messages before the answer, the answer, tokens of the prompt as `base` renders it) of each place."""
    rows = pq.read_table(dataset / "test.parquet", columns=["messages"])["messages"]
    tokenizer = load_tokenizer(base)
    rendered = []
    for row in places:
        *messages, answer = rows[row].as_py()
        tokens = len(encode(tokenizer, messages, add_generation_prompt=True))
        rendered.append((messages, str(answer["content"]), tokens))
    return rendered
