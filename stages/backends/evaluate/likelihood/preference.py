"""Held-out pairs of answers: which of the two does the model find likelier?"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from registry.artifacts import digest
from registry.evaluation_results import Item, ScoredResult, write_samples
from stages.backends.chat import encode_with_mask
from stages.backends.evaluate.prompts import Chat, read_split
from stages.backends.evaluate.token_lm import Request, TokenLM
from stages.config.evaluate import PreferenceTask
from stages.contract import Parent
from stages.errors import InvalidInput
from stages.formats.dataset_rows import read_in_parts
from stages.formats.messages import fields, last_answer_only, said
from stages.scoring.summary import summarize

Pair = tuple[Chat, Chat]
"""The chats with the chosen and with the rejected answer."""


def run_preference(lm: TokenLM, task: PreferenceTask, dataset: Parent | None, out: Path) -> ScoredResult:
    """Measure one task, write its samples under `out`, and return what `results.json` says of it.

    Raises `InvalidInput` where the dataset has no pairs, and as `TokenLM.loglikelihood` does.
    """
    if dataset is None:
        raise InvalidInput(f"task {task.name} asks for held-out pairs, but no prepared dataset was given")
    items = _scored(lm, task, read_pairs(dataset.path / f"{task.split}.parquet", task))
    settings, clusters = task.model_dump(mode="json"), [item["cluster"] or item["item"] for item in items]
    return {
        "config": settings,
        "fewshot": 0,
        "limit": task.max_items,
        "metric": task.scores[0],
        "dataset": dataset.id,
        "words": f"{len(items)} pairs of the {task.split} split of dataset {dataset.id[:12]}",
        "chat_template_applied_by": "tuneline",
        "config_digest": digest([settings, None]),
        **write_samples(out, task.name, items),
        "metrics": {
            name: summarize([item["scores"][name] for item in items], clusters) for name in task.scores
        },
    }


def read_pairs(file: Path, task: PreferenceTask) -> list[Pair]:
    """The pairs of a split, with weight 0 on earlier answers, which are not scored.

    Raises `InvalidInput` where there are none.
    """
    chats = read_split(file, task.max_items)
    if "rejected" not in pq.read_schema(file).names:
        raise InvalidInput(
            f"task {task.name} compares two answers to each prompt, and the dataset has one; prepare pairs "
            "with prepare.format: preferences"
        )
    rows = itertools.islice(read_in_parts(file, ["rejected"]), len(chats))
    chosen = [last_answer_only(chat) for chat in chats]
    return [(c, [*c[:-1], fields(row["rejected"])]) for c, row in zip(chosen, rows, strict=True)]


def _scored(lm: TokenLM, task: PreferenceTask, pairs: Sequence[Pair]) -> list[Item]:
    requests = [[answer_request(lm, chat) for chat in pair] for pair in pairs]
    found = iter(lm._loglikelihood_tokens([request for both in requests for request in both]))
    items = []
    for place, (pair, both) in enumerate(zip(pairs, requests, strict=True)):
        sums = [next(found)[0] for _ in both]
        items.append(_item(task, place, pair, both, sums))
    asked = Counter(item["prompt_hash"] for item in items)
    for item in items:
        if asked[item["prompt_hash"]] > 1:
            item["cluster"] = item["prompt_hash"]
    return items


def answer_request(lm: TokenLM, chat: Chat) -> Request:
    """The chat's token ids in two parts: up to its last answer, and that with its end of turn, as taught."""
    ids, mask = encode_with_mask(lm.tokenizer, chat)
    taught = [place for place, on in enumerate(mask) if on]
    if not taught or not taught[0]:
        raise InvalidInput(
            "the chat template writes no answer after a prompt, so none can be scored; prepare the dataset "
            "again with this base's chat template"
        )
    start, end = taught[0], taught[-1] + 1
    return (lm.tokenizer.decode(ids[:start]), ""), ids[:start], ids[start:end]


def _item(
    task: PreferenceTask, place: int, pair: Pair, both: Sequence[Request], sums: Sequence[float]
) -> Item:
    """What one pair scores. `sums`: log-likelihoods of chosen and rejected in nats."""
    chosen, rejected = (said(chat[-1]) for chat in pair)
    means = [total / len(answer) for total, (_, _, answer) in zip(sums, both, strict=True)]
    scores = (float(sums[0] > sums[1]), float(means[0] > means[1]))
    prompt = hashlib.sha256(json.dumps(both[0][1]).encode()).hexdigest()
    return {
        "item": digest([task.name, list(pair), prompt]),
        "prompt_hash": prompt,
        "document": place,
        "asked": "\n".join(message["content"] for message in pair[0][:-1] if message["role"] != "system"),
        "cluster": None,
        "target": chosen,
        "answer": chosen if sums[0] > sums[1] else rejected,
        "scores": dict(zip(task.scores, scores, strict=True)),
        "metric": task.scores[0],
        "score": scores[0],
    }
