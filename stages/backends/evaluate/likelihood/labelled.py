"""Held-out answers that are each called good or bad: does the model find the good ones likelier?"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from registry.artifacts import digest
from registry.evaluation_results import BAD, GOOD, Item, ScoredResult, write_samples
from stages.backends.evaluate.likelihood.preference import answer_request
from stages.backends.evaluate.prompts import Chat, read_split
from stages.backends.evaluate.token_lm import TokenLM
from stages.config.evaluate import LabelledTask
from stages.contract import Parent
from stages.errors import InvalidInput
from stages.formats.messages import asked, last_answer_only, said
from stages.formats.splits import undesirable
from stages.statistics.roc import area_interval, pseudo_values

COUNTS = "tokens"
"""Of each item: the log-loss of its answer in nats, and the answer's tokens."""
FEWEST = 2
"""Prompts of each label's answers without which there is no spread."""


def run_labelled(lm: TokenLM, task: LabelledTask, dataset: Parent | None, out: Path) -> ScoredResult:
    """Measure one task, write its samples under `out`, and return what `results.json` says of it.

    Raises `InvalidInput` where the dataset has no labels or too few, and as `TokenLM.loglikelihood` does.
    """
    if dataset is None:
        raise InvalidInput(f"task {task.name} asks for held-out answers, but no prepared dataset was given")
    chats = read_labelled(dataset.path / f"{task.split}.parquet", task)
    items, good = _read(lm, task, chats), [label for _, label in chats]
    values = pseudo_values(
        [-loss / tokens for loss, tokens in (item["counts"][COUNTS] for item in items)], good
    )
    (name,) = task.scores
    for item, value in zip(items, values, strict=True):
        item["scores"], item["metric"], item["score"] = {name: value}, name, value
    clusters = [item["cluster"] or item["item"] for item in items]
    low, high, interval = area_interval(values, good, clusters)
    area, settings = math.fsum(values) / len(values), task.model_dump(mode="json")
    return {
        "config": settings,
        "fewshot": 0,
        "limit": task.max_items,
        "metric": name,
        "dataset": dataset.id,
        "words": f"{good.count(True)} good and {good.count(False)} bad answers of the {task.split} split of "
        f"dataset {dataset.id[:12]}",
        "chat_template_applied_by": "tuneline",
        "config_digest": digest([settings, None]),
        **write_samples(out, task.name, items),
        "metrics": {name: {"value": area, "low": low, "high": high, "n": len(items), "interval": interval}},
    }


def read_labelled(file: Path, task: LabelledTask) -> list[tuple[Chat, bool]]:
    """The chats of a split and whether their answers are called good, with weight 0 on earlier answers.

    Raises `InvalidInput` where they have no labels, or where those of one are to fewer than two prompts.
    """
    good = read_split(file, task.max_items)
    if not undesirable(file).is_file():
        raise InvalidInput(
            f"task {task.name} reads answers that are called good or bad, and the dataset has no labels; "
            "prepare them with prepare.format: unpaired-preferences"
        )
    bad = read_split(undesirable(file), task.max_items)
    for label, chats in ((GOOD, good), (BAD, bad)):
        prompts = len({json.dumps(chat[:-1], sort_keys=True) for chat in chats})
        if prompts < FEWEST:
            raise InvalidInput(
                f"task {task.name} compares good answers with bad ones, and those of the {task.split} split "
                f"that are {label} are to {prompts} prompts; hold out more (split.{task.split}): to {FEWEST} "
                "at least, and a gate wants 20 answers of each label"
            )
    return [(last_answer_only(chat), chats is good) for chats in (good, bad) for chat in chats]


def _read(lm: TokenLM, task: LabelledTask, chats: Sequence[tuple[Chat, bool]]) -> list[Item]:
    """An item for each answer, without its score: what its tokens cost, and how many they are."""
    requests = [answer_request(lm, chat) for chat, _ in chats]
    found = lm._loglikelihood_tokens(requests)
    prompts = [hashlib.sha256(json.dumps(context).encode()).hexdigest() for _, context, _ in requests]
    often = Counter(prompts)
    return [
        {
            "item": digest([task.name, chat, good, prompt]),
            "prompt_hash": prompt,
            "document": place,
            "asked": asked(chat[:-1]),
            "cluster": prompt if often[prompt] > 1 else None,
            "target": GOOD if good else BAD,
            "answer": said(chat[-1]),
            "scores": {},
            "counts": {COUNTS: (-total, len(answer))},
        }
        for place, ((chat, good), prompt, (total, _), (_, _, answer)) in enumerate(
            zip(chats, prompts, found, requests, strict=True)
        )
    ]
