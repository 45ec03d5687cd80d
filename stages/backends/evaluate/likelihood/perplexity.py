"""Held-out documents: how likely does the model find them, token by token?"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from registry.artifacts import digest
from registry.evaluation_results import Item, ScoredResult, write_samples
from stages.backends.chat import Message, encode_with_mask
from stages.backends.evaluate.token_lm import BRANCH_TOKENS, Row, TokenLM
from stages.config.evaluate import PerplexityTask
from stages.contract import Parent, progress
from stages.errors import InvalidInput
from stages.formats.dataset_rows import read_in_parts
from stages.formats.messages import is_document
from stages.scoring.item import CorpusMetric
from stages.scoring.summary import together
from stages.statistics.corpus import Figure

COUNTS = "tokens"
"""Of each item: the log-loss of all its tokens in nats, and their number."""
FIGURES: dict[str, tuple[Figure, str]] = {
    "log_likelihood": ("log_likelihood", "nats per token"),
    "perplexity": ("perplexity", "tokens"),
}
"""Score → figure and unit."""


def run_perplexity(lm: TokenLM, task: PerplexityTask, dataset: Parent | None, out: Path) -> ScoredResult:
    """Measure one task, write its samples under `out`, and return what `results.json` says of it.

    Raises `InvalidInput` where the dataset has no documents, and as `TokenLM.loglikelihood` does.
    """
    if dataset is None:
        raise InvalidInput(f"task {task.name} reads held-out documents, but no prepared dataset was given")
    documents = read_documents(dataset.path / f"{task.split}.parquet", task)
    items = _scored(lm, task, documents)
    settings, tokens = task.model_dump(mode="json"), sum(int(item["counts"][COUNTS][1]) for item in items)
    metrics = {}
    for name, (figure, unit) in FIGURES.items():
        metrics[name] = together(items, CorpusMetric(figure, COUNTS))
        metrics[name]["unit"] = unit
    return {
        "config": settings,
        "fewshot": 0,
        "limit": task.max_items,
        "metric": task.scores[0],
        "dataset": dataset.id,
        "words": f"{tokens:,} tokens in {len(items)} pieces of documents of the {task.split} split of "
        f"dataset {dataset.id[:12]}",
        "chat_template_applied_by": "tuneline",
        "config_digest": digest([settings, None]),
        **write_samples(out, task.name, items),
        "metrics": metrics,
    }


def read_documents(file: Path, task: PerplexityTask) -> list[tuple[Message, str]]:
    """The documents and pieces of a split, each with what all pieces of its document share.

    Raises `InvalidInput` where there are none.
    """
    rows = read_in_parts(file, ["messages", "prompt_hash"])
    documents = ((row["messages"][0], row["prompt_hash"]) for row in rows if is_document(row["messages"]))
    found = list(itertools.islice(documents, task.max_items))
    if not found:
        raise InvalidInput(
            f"task {task.name} reads held-out documents, and {file.name} has none; prepare documents with "
            f"prepare.format: text, and hold some out (split.{file.stem})"
        )
    return found


def _scored(lm: TokenLM, task: PerplexityTask, documents: Sequence[tuple[Message, str]]) -> list[Item]:
    rows = [tuple(encode_with_mask(lm.tokenizer, [message])[0]) for message, _ in documents]
    losses, cut = _losses(lm, rows), len({group for _, group in documents}) < len(documents)
    items = []
    for place, ((message, group), ids, loss) in enumerate(zip(documents, rows, losses, strict=True)):
        item: Item = {
            "item": digest([task.name, message["role"], message["content"]]),
            "prompt_hash": hashlib.sha256(json.dumps(ids).encode()).hexdigest(),
            "document": place,
            "asked": str(message["content"]),
            "cluster": group if cut else None,
            "target": "",
            "answer": "",
            "scores": {},
            "counts": {COUNTS: (loss, len(ids) - 1)},
            "metric": task.scores[0],
            "score": -loss / max(1, len(ids) - 1),
        }
        items.append(item)
    return items


def _losses(lm: TokenLM, rows: Sequence[Row]) -> list[float]:
    """Of each row the log-loss in nats, summed over all its tokens but the first."""
    losses = [0.0] * len(rows)
    parts = [  # a row of logits for each token: a long row's do not fit into memory at once
        (min(start + BRANCH_TOKENS, len(ids)), place, start)
        for place, ids in enumerate(rows)
        for start in range(1, len(ids), BRANCH_TOKENS)
    ]
    parts.sort(reverse=True)
    read = lm.predictions([rows[place][:end] for end, place, _ in parts], [e - s for e, _, s in parts])
    for done, ((end, place, start), logits) in enumerate(zip(parts, read, strict=True), 1):
        wanted = torch.tensor(rows[place][start:end], device=logits.device)[:, None]
        likelihood = logits.gather(1, wanted)[:, 0].double() - torch.logsumexp(logits, dim=-1).double()
        losses[place] -= float(likelihood.sum())
        progress(done, len(parts), "items scored")
    return losses
