"""Held-out chats: as items of a task, and by their place in their split."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stages.backends.chat import Message, encode, load_tokenizer
from stages.config.evaluate import EvaluateConfig, HeldoutTask
from stages.config.judge_metric import JudgeMetric
from stages.config.metrics import DEFAULT
from stages.config.user_metric import PythonMetric
from stages.contract import Parents
from stages.errors import InvalidInput, StageError
from stages.formats.dataset_rows import REFERENCES, SLICES, read_in_parts
from stages.formats.messages import is_document
from stages.scoring.judge.opponent import opponents
from stages.scoring.judge.verdicts import require_answering, require_usable
from stages.scoring.scorer import Scorer
from stages.scoring.tool_calls import as_text
from stages.scoring.user_function import Answered, user_scores

FRESH, VALIDATION = "fresh", "validation"
PREPARED = "what the prepare stage writes"
Chat = list[dict[str, Any]]


class HeldoutItem(NamedTuple):
    """`messages` end with the expected answer; `chat`: the row of the split that they are of.

    `references`: all right answers, the expected one first; calls in the form that
    `stages.scoring.tool_calls` reads. `slices`: column of the data → value.
    """

    messages: Chat
    chat: Chat
    references: Sequence[str]
    slices: Mapping[str, str]


def items_of(task: HeldoutTask, dataset: Path) -> list[HeldoutItem]:
    """The items of a task, in their order.

    With `turns: all` every answer but those of weight 0, which nobody was to learn; a row's further right
    answers are its last answer's.
    """
    file = dataset / f"{task.split}.parquet"
    items: dict[str, HeldoutItem] = {}  # chats that begin alike have those turns once
    for row, others, slices in read_rows(file, task.max_items if task.turns == "last" else None):
        ends = [len(row) - 1]
        if task.turns == "all":
            answers = (k for k, message in enumerate(row) if message["role"] == "assistant" and k)
            ends = [k for k in answers if row[k].get("weight") != 0]
        for k in ends:
            messages, further = row[: k + 1], others if k == len(row) - 1 else ()
            item = HeldoutItem(messages, row, [as_text(messages[-1]), *further], slices)
            items.setdefault(json.dumps(messages if task.turns == "all" else len(items)), item)
    return list(itertools.islice(items.values(), task.max_items))


def check_metrics(config: EvaluateConfig, parents: Parents) -> None:
    """Raise `InvalidInput` where a metric cannot score the held-out rows, before a model is opened, and
    `StageError` where a judge's endpoint gives no verdict."""
    for task in config.tasks:
        if isinstance(task, HeldoutTask) and task.metrics != DEFAULT and "dataset" in parents:
            items = items_of(task, parents["dataset"].path)
            asked = [item.messages[:-1] for item in items]
            try:
                Scorer(task.metrics, [item.references for item in items])
                for metric in task.metrics:
                    if isinstance(metric, PythonMetric):
                        first = [Answered(i.references[0], i.references, i.messages[:-1]) for i in items[:3]]
                        user_scores(metric, first)
                    if isinstance(metric, JudgeMetric):
                        require_usable(metric)
                        opponents(metric, asked, [item.references[0] for item in items])
                        require_answering(metric)
            except (InvalidInput, StageError) as error:
                raise type(error)(f"task {task.name}: {error}") from None


def system_message(dataset: Path) -> str | None:
    """The system message that every row of the test split begins with, if there is one."""
    rows = each_row(dataset / "test.parquet")
    messages = {row[0]["content"] if row[0]["role"] == "system" else None for row, _, _ in rows}
    return messages.pop() if len(messages) == 1 else None


def read_split(file: Path, limit: int | None = None) -> list[Chat]:
    """The chats of a split, in its order, without documents. Raises `InvalidInput` where there is none."""
    return [chat for chat, _, _ in read_rows(file, limit)]


def read_rows(file: Path, limit: int | None = None) -> list[tuple[Chat, Sequence[str], Mapping[str, str]]]:
    """Each chat of a split with its further right answers and its slices; raises as `read_split` does."""
    return list(itertools.islice(each_row(file), limit))


def each_row(file: Path) -> Iterator[tuple[Chat, Sequence[str], Mapping[str, str]]]:
    """The same, of which few are in memory at once."""
    if not file.is_file():
        expected = "a feed, the only source with a split of its new rows" if file.stem == FRESH else PREPARED
        raise InvalidInput(f"{file.name} is not in the dataset; expected {expected}")
    count, chats = 0, 0
    for row in read_in_parts(file, ["messages", REFERENCES, SLICES]):
        count += 1
        if not is_document(row["messages"]):
            chats += 1
            yield row["messages"], row.get(REFERENCES) or (), json.loads(row.get(SLICES) or "{}")
    if file.stem == FRESH and not count:
        raise InvalidInput(
            "no row that came since the live model's data is held out: add rows to the feed, then run again"
        )
    if file.stem in ("test", VALIDATION) and not count:
        raise InvalidInput(
            f"the dataset's {file.stem} split is empty; prepare it with split.{file.stem} above 0"
        )
    if count and not chats:
        raise InvalidInput(
            f"{file.name} holds documents (prepare.format: text), and no chats whose answers can be scored; "
            "measure documents by a task of kind perplexity"
        )


def prompts(dataset: Path, base: Path, places: Sequence[int]) -> list[tuple[list[Message], str, int]]:
    """(messages before the answer, the answer, tokens of the prompt as `base` renders it) of each place."""
    wanted, rows = set(places), enumerate(each_row(dataset / "test.parquet"))
    chats = {place: chat for place, (chat, _, _) in rows if place in wanted}
    tokenizer = load_tokenizer(base)
    rendered: list[tuple[list[Message], str, int]] = []
    for place in places:
        answer = chats[place][-1]
        messages: list[Message] = [*chats[place][:-1]]
        tokens = len(encode(tokenizer, messages, add_generation_prompt=True))
        rendered.append((messages, str(answer["content"]), tokens))
    return rendered
