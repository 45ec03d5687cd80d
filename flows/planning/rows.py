"""The rows that a recipe will prepare, as far as its data say without being tokenized: how many, how long."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flows.planning.sources import data_bytes
from stages.config.prepare import PrepareConfig
from stages.config.train import TrainConfig
from stages.errors import StageError
from stages.formats.messages import Message, is_document, said
from stages.prepare import first_rows

WHOLE, SAMPLE = 4_000_000, 2000
"""Bytes of data that are read to the end, which takes a second; of larger ones so many rows are."""
MOST_OPENED = 50_000_000
"""Bytes of data that are opened, which takes their digest."""
BYTES_PER_TOKEN = 4
"""Of text, in the vocabularies of 32,000 to 256,000 entries that such models have."""
MESSAGE = 5
"""Tokens that a chat template writes around a message: its beginning, a role, its end, ends of lines."""
ROW_BYTES = 3
"""Of a data file, for each token of its rows once rendered, where none was read."""

HELD, PAIRED, KEPT = 80, 320, 4
"""Bytes of a training's rows: in main memory for each row and pass its length, its place and the order
(measured, at the peak), and with KTO the prompt before each answer; on disk for each token."""
TOLD = 100_000_000
"""From so many bytes on rows count: fewer are less than an estimate is off."""


@dataclass(frozen=True)
class RowFigures:
    """`rows` that are kept, of all splits together. In tokens, on average: the `prompt` before an answer with
    the header of the answer, and the `answer` with the end of its turn; `longest_answer`: of a batch of 16;
    `shared`: what all begin with; `choices`: each distinct answer's, without what all of them share.
    `undesirable`: rows beside these whose answers are called bad."""

    rows: float
    prompt: float
    answer: float
    longest_answer: float = 0.0
    shared: float = 0.0
    choices: tuple[float, ...] = ()
    undesirable: float = 0.0

    @property
    def length(self) -> float:
        """Tokens of a row, on average."""
        return self.prompt + self.answer


def training_bytes(figures: RowFigures | None, config: TrainConfig) -> tuple[int, int]:
    """Main memory and disk that a training's rows take meanwhile; each 0 where it is little or not known."""
    if figures is None:
        return 0, 0
    rows = figures.rows + figures.undesirable * (config.method == "kto")
    held = rows * max(1, config.epochs) * (HELD + PAIRED * (config.method == "kto"))
    kept = rows * (1 + config.compares) * figures.length * KEPT
    return int(held) if held >= TOLD else 0, int(kept) if kept >= TOLD else 0


def row_figures(config: PrepareConfig, feed: Path | None = None) -> RowFigures | None:
    """Figures of the rows that `config` will leave; None where the data are not here, or cannot be read.

    `feed`: a file with the rows of the feed that its source names.
    """
    each = [figures for alone in config.sources if (figures := _of_one(alone, feed)) is not None]
    if len(each) <= len(config.mix):
        return None
    if not config.mix:
        return each[0]
    shares = (1.0, *(mixed.share for mixed in config.mix))
    return _together([_share(one, s) for one, s in zip(each, shares, strict=True)])


def _share(figures: RowFigures, share: float) -> RowFigures:
    return replace(figures, rows=share * figures.rows, undesirable=share * figures.undesirable)


def _together(parts: Sequence[RowFigures]) -> RowFigures:
    """Of rows of several sources; which answers a task compares is not reckoned for them."""
    rows = sum(part.rows for part in parts)

    def mean(name: str) -> float:
        return float(sum(part.rows * getattr(part, name) for part in parts) / rows)

    undesirable = sum(part.undesirable for part in parts)
    return RowFigures(rows, mean("prompt"), mean("answer"), mean("longest_answer"), undesirable=undesirable)


def _of_one(config: PrepareConfig, feed: Path | None) -> RowFigures | None:
    size = data_bytes(config.source, feed)
    if size is None:
        return None
    if size > MOST_OPENED:
        return _assumed(size / ROW_BYTES, config)
    try:
        most = 10**9 if size <= WHOLE else SAMPLE
        chats, _ = first_rows(config, most, feed)
        labelled = config.format == "unpaired-preferences"
        others = first_rows(config, most, feed, desirable=False)[0] if labelled else []
    except StageError:
        return None
    if not chats:
        return None
    figures = replace(_figures(chats, config), undesirable=float(len(others)))
    if size <= WHOLE or len(chats) + len(others) < SAMPLE:
        return figures
    read = sum(len(json.dumps(chat, ensure_ascii=False).encode()) for chat in (*chats, *others))
    more = max(1.0, size / read)
    rows = min(figures.rows * more, config.max_rows or figures.rows * more)
    return replace(figures, rows=rows, undesirable=figures.undesirable * more)


def assumed(rows: float, length: float) -> RowFigures:
    """Of rows of which nothing is known but their length in tokens, a quarter of it the answer."""
    return RowFigures(rows, 0.75 * length, 0.25 * length, 0.25 * length)


def _assumed(tokens: float, config: PrepareConfig) -> RowFigures:
    length = config.max_length / 4
    rows = tokens / length
    return assumed(min(rows, config.max_rows or rows), length)


def _figures(chats: Sequence[Sequence[Message]], config: PrepareConfig) -> RowFigures:
    kept: dict[str, tuple[float, float]] = {}
    answers: set[str] = set()
    for chat in chats:
        text = json.dumps(chat, ensure_ascii=False)
        if is_document(chat):
            tokens = max(1.0, len(chat[0]["content"].encode()) / BYTES_PER_TOKEN)
            cut = math.ceil(tokens / config.max_length)
            kept.update({f"{number} {text}": (1.0, tokens / cut) for number in range(cut)})
            continue
        *before, last = (len(said(message).encode()) / BYTES_PER_TOKEN for message in chat)
        prompt, answer = sum(before) + MESSAGE * len(before) + MESSAGE - 2, last + 2
        if prompt + answer <= config.max_length:
            kept[text] = prompt, answer
            answers.add(said(chat[-1]))
        if len(kept) == config.max_rows:
            break
    rows = sorted(kept.values(), key=sum, reverse=True) or [(config.max_length / 2, config.max_length / 2)]
    batches = [rows[start : start + 16] for start in range(0, len(rows), 16)]
    longest = sum(max(answer for _, answer in batch) for batch in batches) / len(batches)
    prompts, lengths = (sum(column) / len(rows) for column in zip(*rows, strict=True))
    system = {chat[0]["content"] if chat[0]["role"] == "system" else "" for chat in chats}
    shared = len(system.pop().encode()) / BYTES_PER_TOKEN + 2 * MESSAGE - 2 if len(system) == 1 else 0.0
    return RowFigures(len(kept), prompts, lengths, longest, shared, _choices(answers))


def _choices(answers: set[str]) -> tuple[float, ...]:
    if len(answers) < 2:
        return ()
    ordered = sorted(answers)
    begin = _alike(ordered)
    end = _alike([answer[begin:][::-1] for answer in ordered])
    return tuple(
        max(1.0, len(answer[begin : len(answer) - end].encode()) / BYTES_PER_TOKEN)
        for answer in itertools.islice(ordered, 64)
    )


def _alike(texts: Sequence[str]) -> int:
    """Characters that all of them begin with."""
    first, last = min(texts), max(texts)
    pairs = zip(first, last, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(first), len(last)))
