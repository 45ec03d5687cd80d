"""How near one model is to another: the same tokens through both, one after the other.

Only one model is in memory at a time. The first one's log-probabilities lie in a scratch file meanwhile,
tokens × vocabulary × 4 bytes, bounded by the task's `chats` and `tokens`, and removed at the end.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from registry.evaluation_figures import Metric
from registry.evaluation_results import Distances
from stages.backends.chat import Message, Tokenizer, encode_with_mask
from stages.backends.evaluate.fidelity.intervals import ByChat
from stages.backends.evaluate.token_lm import Row, TokenLM
from stages.contract import progress
from stages.errors import InvalidInput
from stages.formats.dataset_rows import read_in_parts
from stages.formats.model_files import need_room
from stages.statistics.intervals import wilson

SCRATCH = "log-probabilities.scratch"


@dataclass(frozen=True)
class Chats:
    """Rendered chats as token ids; of row k the last `last[k]` tokens are compared.

    `answers[k]`: which of those belong to the last answer; `whole[k]`: whether all of it is among them.
    """

    messages: list[list[Message]]
    rows: list[Row]
    last: list[int]
    answers: list[list[bool]]
    whole: list[bool]

    @property
    def tokens(self) -> int:
        return sum(self.last)


def read_chats(file: Path, tokenizer: Tokenizer, chats: int, tokens: int) -> Chats:
    """The first `chats` rows of a split of a prepared dataset, rendered by `tokenizer`'s chat template.

    Raises `InvalidInput` without the file or with fewer than 2 rows.
    """
    rows = [row["messages"] for row in itertools.islice(read_in_parts(file, ["messages"]), chats)]
    if len(rows) < 2:
        raise InvalidInput(
            f"{file.name} has {len(rows)} chats, but a comparison needs at least 2; prepare the dataset with "
            f"a larger split.{file.stem}"
        )
    rendered = Chats(rows, [], [], [], [])
    for messages in rows:
        ids, mask = encode_with_mask(tokenizer, messages)
        answer = _last_run(mask)
        last = min(tokens, len(ids) - 1)
        rendered.rows.append(tuple(ids))
        rendered.last.append(last)
        rendered.answers.append([place in answer for place in range(len(ids) - last, len(ids))])
        rendered.whole.append(bool(answer) and answer.start >= len(ids) - last)
    return rendered


def _last_run(mask: Sequence[int]) -> range:
    end = max((place + 1 for place, on in enumerate(mask) if on), default=0)
    start = end
    while start and mask[start - 1]:
        start -= 1
    return range(start, end)


class LogProbabilities:
    """The log-probabilities of a model for every compared token of `chats`, in a scratch file in `out`."""

    def __init__(self, lm: TokenLM, chats: Chats, vocabulary: int, out: Path) -> None:
        self.chats, self.vocabulary = chats, vocabulary
        self._file = out / SCRATCH
        need_room(out, chats.tokens * vocabulary * 4, "comparing with the reference")
        self.table = np.memmap(self._file, dtype=np.float32, mode="w+", shape=(chats.tokens, vocabulary))
        place = 0
        for block in log_probabilities(lm, chats, vocabulary, "chats read"):
            self.table[place : place + len(block)] = block.numpy()
            place += len(block)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        del self.table
        self._file.unlink(missing_ok=True)


def log_probabilities(lm: TokenLM, chats: Chats, vocabulary: int, unit: str) -> Iterator[torch.Tensor]:
    """Chat by chat, float32 [compared tokens, vocabulary]: over so many of the first ids, which sum to 1.

    `unit`: what progress calls them.
    """
    for done, logits in enumerate(lm.predictions(chats.rows, chats.last), start=1):
        if logits.shape[1] < vocabulary:
            raise InvalidInput(
                f"the model predicts {logits.shape[1]} token ids, but its tokenizer has {vocabulary}; make "
                "the model again from its parent"
            )
        progress(done, len(chats.rows), unit)
        yield torch.log_softmax(logits[:, :vocabulary], dim=-1)


@dataclass(frozen=True)
class TokenComparison:
    """A model against a reference, token by token; float64 arrays of the length of all compared tokens."""

    chat: Any
    kl: Any
    same_top: Any
    loss: Any
    reference_loss: Any
    answer: Any
    right: list[bool | None]
    """Per chat: whether each token of the answer is the likeliest; None where the answer is cut."""
    reference_right: list[bool | None]


def compare(kept: LogProbabilities, other: TokenLM, other_is_reference: bool = True) -> TokenComparison:
    """KL(reference ‖ model), likeliest tokens and log-losses on `kept.chats`. Raises as `predictions`."""
    chats = kept.chats
    columns: list[list[torch.Tensor]] = [[], [], [], []]
    right: list[list[bool | None]] = [[], []]
    place = 0
    for k, theirs in enumerate(log_probabilities(other, chats, kept.vocabulary, "chats compared")):
        ours = torch.from_numpy(kept.table[place : place + len(theirs)])
        place += len(theirs)
        if not other_is_reference:
            ours, theirs = theirs, ours
        target = torch.tensor(chats.rows[k][-chats.last[k] :])
        tops = ours.argmax(dim=-1), theirs.argmax(dim=-1)
        losses = [-table.gather(1, target[:, None])[:, 0] for table in (ours, theirs)]
        kl = (theirs.exp() * (theirs - ours)).sum(dim=-1).clamp(min=0)
        for column, values in zip(columns, (kl, tops[0] == tops[1], *losses), strict=True):
            column.append(values.double())
        answer = torch.tensor(chats.answers[k])
        for side, top in zip(right, tops, strict=True):
            side.append(bool((top == target)[answer].all()) if chats.whole[k] else None)
    chat = np.repeat(np.arange(len(chats.rows)), chats.last)
    answers = np.concatenate([np.array(marks, dtype=bool) for marks in chats.answers])
    kl_, same, loss, reference_loss = (torch.cat(column).numpy() for column in columns)
    return TokenComparison(chat, kl_, same, loss, reference_loss, answers, right[0], right[1])


def summarize(comparison: TokenComparison) -> Distances:
    """The metrics that `stages/evaluate.py` describes, and `flips`' two directions."""
    chats = len(comparison.right)
    all_tokens = ByChat(comparison.chat, chats)
    worse = comparison.loss - comparison.reference_loss
    metrics: dict[str, Metric] = {
        "kl_mean": all_tokens.mean(comparison.kl),
        "kl_p99": all_tokens.quantile(comparison.kl, 0.99),
        "same_top": all_tokens.share(comparison.same_top),
        "perplexity_ratio": all_tokens.ratio(worse),
    }
    if comparison.answer.any():
        owners, inside = np.unique(comparison.chat[comparison.answer], return_inverse=True)
        answers = ByChat(inside, len(owners))
        metrics["answer_kl_mean"] = answers.mean(comparison.kl[comparison.answer])
        metrics["answer_perplexity_ratio"] = answers.ratio(worse[comparison.answer])
    pairs = [
        pair for pair in zip(comparison.right, comparison.reference_right, strict=True) if None not in pair
    ]
    gained = sum(ours is True and theirs is False for ours, theirs in pairs)
    lost = sum(ours is False and theirs is True for ours, theirs in pairs)
    if pairs:
        low, high = wilson(gained + lost, len(pairs))
        share = (gained + lost) / len(pairs)
        metrics["flips"] = {"value": share, "low": low, "high": high, "n": len(pairs), "interval": "wilson"}
    return {"metrics": metrics, "flips": {"gained": gained, "lost": lost}, "tokens": len(comparison.kl)}


def samples(comparison: TokenComparison, chats: Chats, name: str) -> list[dict[str, object]]:
    """One row per chat: its mean figures, and whether both models would write the answer."""
    rows: list[dict[str, object]] = []
    for k, messages in enumerate(chats.messages):
        mine = comparison.chat == k
        scores = {
            "kl_mean": float(comparison.kl[mine].mean()),
            "same_top": float(comparison.same_top[mine].mean()),
            "loss": float(comparison.loss[mine].mean()),
            "reference_loss": float(comparison.reference_loss[mine].mean()),
        }
        ids = hashlib.sha256(json.dumps(chats.rows[k]).encode()).hexdigest()
        item = hashlib.sha256(json.dumps([name, k, messages], sort_keys=True).encode()).hexdigest()
        rows.append(
            {
                "item": item,
                "prompt_hash": ids,
                "target": str(messages[-1]["content"]),
                "tokens": int(mine.sum()),
                "right": comparison.right[k],
                "reference_right": comparison.reference_right[k],
                "scores": {key: score for key, score in scores.items() if math.isfinite(score)},
                "metric": "kl_mean",
                "score": scores["kl_mean"],
            }
        )
    return rows
