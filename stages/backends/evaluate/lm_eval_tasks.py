"""Run tasks with lm-eval and keep what every item scored, so that two models can be compared item by item.

lm-eval's own saving is not used: it swallows exceptions, and a missing file must fail.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval import evaluator
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from registry.artifacts import digest
from registry.evaluation_results import Item, ScoredResult, write_samples
from stages.backends.evaluate.embedding import Embedder, similarities
from stages.backends.evaluate.heldout import EXACT, HeldoutItems
from stages.backends.evaluate.sampling import add_drawn
from stages.backends.evaluate.surroundings import beside, offline, quiet
from stages.backends.evaluate.token_lm import TokenLM
from stages.config.embedding_metric import EmbeddingMetric
from stages.config.evaluate import HeldoutTask, LmEvalTask, task_folder
from stages.config.judge_metric import JudgeMetric
from stages.config.user_metric import PythonMetric
from stages.contract import Parent
from stages.errors import InvalidInput, StageError
from stages.formats.messages import asked
from stages.scoring.judge.verdicts import JudgeReport, judge, words
from stages.scoring.scorer import recorded
from stages.scoring.summary import sum_up
from stages.scoring.user_function import user_scores

Document = dict[str, Any]
"""A row of a task's own data, whatever its fields."""


def run_task(
    lm: TokenLM,
    task: HeldoutTask | LmEvalTask,
    dataset: Parent | None,
    seed: int,
    out: Path,
    embedder: Embedder | None = None,
) -> ScoredResult:
    """Measure one task, write its samples under `out`, and return what `results.json` says of it.

    `embedder`: for a metric of kind embedding.

    Raises `InvalidInput` for a task that cannot be run here, `StageError` when samples are missing.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    with quiet(), offline():
        if isinstance(task, HeldoutTask):
            if dataset is None:
                raise InvalidInput(
                    f"task {task.name} asks for held-out rows, but no prepared dataset was given"
                )
            return _run_heldout(lm, task, dataset, seed, out, embedder)
        return _run_lm_eval(lm, task, seed, out)


def _run_heldout(
    lm: TokenLM, task: HeldoutTask, dataset: Parent, seed: int, out: Path, embedder: Embedder | None
) -> ScoredResult:
    heldout = HeldoutItems(task, dataset.path, lm)
    items = _evaluate(lm, heldout, task, None, rendered=False)
    judges = _scored_together(heldout, task, items, embedder)
    add_drawn(lm, heldout, task, seed, items)
    if not heldout.exact:
        for item in items:
            del item["scores"][EXACT]  # lm-eval wants a score of every item
    config, choice, main = recorded(task), heldout.choice, task.metrics[0].scores[0]
    asked = any(isinstance(metric, EmbeddingMetric) for metric in task.metrics)
    embedded = embedder.recorded if embedder is not None and asked else None
    metrics = sum_up(items, task.name, main, heldout.scorer)
    measured = f"{len(items)} items of the {task.split} split of dataset {dataset.id[:12]}"
    result: ScoredResult = {
        "config": config,
        "choice": choice,
        "fewshot": 0,
        "limit": task.max_items,
        "metric": main,
        "dataset": dataset.id,
        "words": "; ".join([measured, *(words(name, report) for name, report in judges.items())]),
        "chat_template_applied_by": "tuneline",
        "config_digest": digest([config, choice, *([embedded] if embedded else [])]),
        **write_samples(out, task.name, items),
        "metrics": metrics,
    }
    if embedded:
        result["embedded_with"] = embedded
    if judges:
        result["judges"] = judges
    return result


def _scored_together(
    heldout: HeldoutItems, task: HeldoutTask, items: list[Item], embedder: Embedder | None
) -> dict[str, JudgeReport]:
    """Add the scores of metrics that take all items at once; what judges found, by their metrics' names."""
    judges: dict[str, JudgeReport] = {}
    answered = [heldout.answered[heldout.keys[item["document"]]] for item in items]
    for metric in task.metrics:
        if isinstance(metric, PythonMetric):
            for item, score in zip(items, user_scores(metric, answered), strict=True):
                item["scores"][metric.name] = score
        if isinstance(metric, EmbeddingMetric) and embedder is not None:
            for item, score in zip(items, similarities(embedder, answered), strict=True):
                item["scores"][metric.name] = score
        if isinstance(metric, JudgeMetric):
            found = judge(metric, answered)
            judges[metric.name] = found.report
            for item, score, note in zip(items, found.scores, found.notes, strict=True):
                item["scores"][metric.name] = score
                item["judged"] = {**item.get("judged", {}), metric.name: note}
    return judges


def _run_lm_eval(lm: TokenLM, task: LmEvalTask, seed: int, out: Path) -> ScoredResult:
    loaded = _load(task)
    loaded.set_config("num_fewshot", task.fewshot)
    loaded.set_fewshot_seed(seed)
    items = _evaluate(lm, loaded, task, task.limit, rendered=lm.rendered)
    if task.metric not in items[0]["scores"]:
        raise InvalidInput(
            f"task {task.name} gives no score per item for {task.metric}; "
            f"it has {', '.join(items[0]['scores']) or 'none'}: set metric to one of these"
        )
    config = json.loads(json.dumps(loaded.dump_config(), default=str))
    config.pop("metadata", None)
    metrics = sum_up(items, task.name, task.metric)
    return {
        "config": config,
        "fewshot": task.fewshot,
        "limit": task.limit,
        "metric": task.metric,
        "words": f"{len(items)} items of lm-eval's {task.name}",
        "chat_template_applied_by": "lm-eval" if lm.rendered else "nobody",
        "config_digest": digest([config, None]),
        **write_samples(out, task.name, items),
        "metrics": metrics,
    }


def load_task(task: LmEvalTask) -> Task:
    """The task with its documents, from what is on this machine. Raises `InvalidInput`."""
    with quiet(), offline():
        return _load(task)


def require_cluster(loaded: Task, task: LmEvalTask) -> None:
    """Raise `InvalidInput` where the documents lack the field that says which belong together."""
    for document in itertools.islice(loaded.eval_docs, 1):
        _cluster(task, document)


def _load(task: LmEvalTask) -> Task:
    try:
        if task.path is None:
            loaded = TaskManager().load([task.name])["tasks"]
        else:
            with beside(task_folder(task.path)):
                loaded = TaskManager(include_path=".", include_defaults=False).load([task.name])["tasks"]
    except Exception as error:  # datasets and lm-eval raise OSError, ValueError, KeyError, ConnectionError
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        where = f"in {task.path}" if task.path else "in lm-eval or in the local cache of datasets"
        raise InvalidInput(
            f"task {task.name} cannot be loaded {where} ({first}); nothing is downloaded here: fetch its "
            "data beforehand, or give a directory with its YAML file and data as path"
        ) from error
    if len(loaded) != 1:
        raise InvalidInput(
            f"{task.name} is a group of {len(loaded)} tasks; name one: {', '.join(sorted(loaded)[:5])}"
        )
    return next(iter(loaded.values()))


def _evaluate(
    lm: TokenLM, task: Task, config: HeldoutTask | LmEvalTask, limit: int | None, rendered: bool
) -> list[Item]:
    """One row per item: what lm-eval logged, merged over the task's filters."""
    name = config.name
    try:
        logged = evaluator.evaluate(
            lm=lm,
            task_dict={"tasks": {name: task}},
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=rendered,
            fewshot_as_multiturn=rendered,
        )
    except ValueError as error:
        raise InvalidInput(f"lm-eval cannot run task {name}: {error}") from error
    items: dict[int, Item] = {}
    for sample in (logged or {}).get("samples", {}).get(name, ()):
        item = items.setdefault(sample["doc_id"], _item(task, config, sample))
        suffix = "" if sample["filter"] == "none" else f",{sample['filter']}"
        for metric in sample["metrics"]:
            score = sample[metric]
            if isinstance(score, bool | int | float | np.number):
                item["scores"][metric + suffix] = float(score)
    expected = len(task.eval_docs) if limit is None else min(limit, len(task.eval_docs))
    if not items or len(items) != expected:
        raise StageError(
            f"task {name}: lm-eval logged {len(items)} of {expected} items; a score needs all of them"
        )
    return list(items.values())


def _item(task: Task, config: HeldoutTask | LmEvalTask, sample: Document) -> Item:
    contexts = [arguments[0] for arguments in sample["arguments"]]
    prompt = hashlib.sha256(json.dumps(contexts, ensure_ascii=False).encode()).hexdigest()
    answer = sample["filtered_resps"][0]
    if not isinstance(answer, str):
        likelihoods = [r[0] if isinstance(r, tuple | list) else r for r in sample["filtered_resps"]]
        answer = str(sample["arguments"][likelihoods.index(max(likelihoods))][-1])
    heldout = task if isinstance(task, HeldoutItems) else None
    row: Item = {
        "item": digest([config.name, sample["doc_hash"], prompt]),
        "prompt_hash": prompt,
        "document": sample["doc_id"],
        "asked": _asked(task, sample["doc"]),
        "cluster": heldout.cluster(sample["doc"]) if heldout else _cluster(config, sample["doc"]),
        "target": str(sample["target"]),
        "answer": answer,
        "scores": {},
    }
    if heldout:
        heldout.add_own(row, sample["doc"]["messages"])
    return row


def _asked(task: Task, document: Document) -> str:
    """What the item asks, without the chat template, few-shot examples or a shared system message."""
    if isinstance(task, HeldoutItems):
        chat = json.loads(document["messages"])[:-1]
        return asked(chat)
    text = task.doc_to_text(document)
    if isinstance(text, str):
        return text
    return "\n".join(value for value in document.values() if isinstance(value, str))


def _cluster(config: HeldoutTask | LmEvalTask, document: Document) -> str | None:
    """A digest that items share which are not independent of each other."""
    field = config.cluster if isinstance(config, LmEvalTask) else None
    if field is None:
        return None
    if field not in document:
        raise InvalidInput(
            f"task {config.name}: cluster is {field!r}, but its documents have {', '.join(document)}"
        )
    return digest(json.loads(json.dumps(document[field], default=str)))
