"""Compare an adapter merged into the 16-bit weights with the same merged into the NF4 weights."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import cast

import numpy as np

from registry.artifacts import digest
from registry.evaluation_results import (
    EvaluationMetrics,
    EvaluationResults,
    MeasuredModel,
    MergeChoice,
    MergeChoiceResult,
    Samples,
    write_results,
    write_samples,
)
from stages.backends.chat import load_tokenizer
from stages.backends.evaluate.fidelity.distances import (
    LogProbabilities,
    TokenComparison,
    compare,
    read_chats,
    summarize,
)
from stages.backends.evaluate.fidelity.intervals import ByChat
from stages.backends.evaluate.open_model import open_model
from stages.backends.tokenizer import tokenizer_home
from stages.config.evaluate import EvaluateConfig, MergeBaseTask
from stages.contract import Parents
from stages.errors import InvalidInput
from stages.statistics.merge_choice import Estimate, MergeBase, MergeEvidence, decide

MERGES: dict[str, MergeBase] = {"model": "16bit", "rival": "nf4"}
"""Role → the weights that this merge was made with."""


def compare_merges(
    parents: Parents, config: EvaluateConfig, task: MergeBaseTask, out: Path
) -> EvaluationMetrics:
    """Both merges against base + adapter as trained, on the validation split; writes `results.json`.

    Loss is what training lowered: nats per token of the answers. Raises `InvalidInput` for a missing parent
    or a validation split of fewer than 2 rows.
    """
    for role in ("model", "rival", "base", "reference_adapter", "dataset"):
        if role not in parents:
            raise InvalidInput(f"merge-base needs two merges and what they were made of; no {role} was given")
    base, adapter, dataset = parents["base"], parents["reference_adapter"], parents["dataset"]
    tokenizer = load_tokenizer(tokenizer_home(base.path, adapter.path))
    chats = read_chats(dataset.path / "validation.parquet", tokenizer, task.chats, task.tokens)
    as_trained_config = config.model_copy(update={"nf4": task.nf4})
    trained = open_model({"model": base, "adapter": adapter}, as_trained_config, tokenizer=tokenizer)
    compared: dict[MergeBase, TokenComparison] = {}
    with LogProbabilities(trained.lm, chats, len(tokenizer), out) as as_trained:
        trained.lm.close()
        gc.collect()
        for role, merge in MERGES.items():
            opened = open_model({"model": parents[role], "base": base}, config, tokenizer=tokenizer)
            compared[merge] = compare(as_trained, opened.lm, other_is_reference=False)
            opened.lm.close()
            gc.collect()
    evidence = _evidence(compared)
    figures = {
        **decide(evidence).model_dump(mode="json"),
        **evidence.model_dump(mode="json"),
        "merged": {merge: parents[role].id for role, merge in MERGES.items()},
        "fidelity": {merge: summarize(comparison) for merge, comparison in compared.items()},
    }
    words = f"the first {len(chats.rows)} chats of the validation split of dataset {dataset.id[:12]}"
    choice = cast(MergeChoice, figures)
    logged = write_samples(out, task.name, _rows(compared))
    write_results(out, _results(parents, config.seed, task, choice, words, logged))
    return {"merge_base": choice, "tasks": {}, "measured_on": words, "computed_with": trained.description}


def _evidence(compared: dict[MergeBase, TokenComparison]) -> MergeEvidence:
    first, second = compared["16bit"], compared["nf4"]
    answer = first.answer
    if not answer.any():
        raise InvalidInput(
            "no answer lies within the compared tokens of the validation split; raise the task's tokens"
        )
    owners, inside = np.unique(first.chat[answer], return_inverse=True)
    difference = ByChat(inside, len(owners)).mean((first.loss - second.loss)[answer])
    pairs = [(a, b) for a, b in zip(first.right, second.right, strict=True) if a is not None]
    return MergeEvidence(
        chats=len(owners),
        loss={merge: float(comparison.loss[answer].mean()) for merge, comparison in compared.items()},
        loss_difference=Estimate(value=difference["value"], low=difference["low"], high=difference["high"]),
        right={"16bit": _share([a for a, _ in pairs]), "nf4": _share([bool(b) for _, b in pairs])},
        gained=sum(a and not b for a, b in pairs),
        lost=sum(bool(b) and not a for a, b in pairs),
        compared=len(pairs),
        kl={merge: float(comparison.kl.mean()) for merge, comparison in compared.items()},
    )


def _share(marks: list[bool]) -> float:
    return sum(marks) / len(marks) if marks else 0.0


def _rows(compared: dict[MergeBase, TokenComparison]) -> list[dict[str, object]]:
    """Per validation chat: the answer's loss in both merges, and whether both get it right."""
    first, second = compared["16bit"], compared["nf4"]
    rows = []
    for k, right in enumerate(first.right):
        answer = (first.chat == k) & first.answer
        row: dict[str, object] = {
            "document": k,
            "tokens": int(answer.sum()),
            "right_16bit": right,
            "right_nf4": second.right[k],
        }
        if answer.any():
            row |= {f"loss_{merge}": float(c.loss[answer].mean()) for merge, c in compared.items()}
        rows.append(row)
    return rows


def _results(
    parents: Parents, seed: int, task: MergeBaseTask, choice: MergeChoice, words: str, logged: Samples
) -> EvaluationResults:
    settings = task.model_dump(mode="json")
    result: MergeChoiceResult = {
        "kind": "merge-base",
        "config": settings,
        **choice,
        "words": words,
        "config_digest": digest(settings),
        **logged,
    }
    ids = {role: parent.id for role, parent in parents.items()}
    model: MeasuredModel = {"subject": parents["model"].id, "parents": ids}
    return {"schema": 1, "seed": seed, "model": model, "tasks": {task.name: result}}
