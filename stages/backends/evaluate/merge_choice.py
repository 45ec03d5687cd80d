"""Compare an adapter folded into the 16-bit weights with the same folded into the NF4 weights."""

from __future__ import annotations

import gc
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from registry.artifacts import digest
from stages.backends.chat import load_tokenizer
from stages.backends.evaluate.fidelity import Comparison, LogProbabilities, compare, read_chats, summarize
from stages.backends.evaluate.fidelity_intervals import ByChat
from stages.backends.evaluate.lm_eval_tasks import samples_file, write
from stages.backends.evaluate.open_model import open_model
from stages.backends.tokenizer import tokenizer_home
from stages.config.evaluate import EvaluateConfig, MergeBaseTask
from stages.contract import Parents
from stages.errors import InvalidInput
from stages.statistics.merge_choice import Evidence, Figure, Fold, decide

FOLDS: dict[str, Fold] = {"model": "16bit", "rival": "nf4"}
"""Role → the fold it holds."""


def compare_merges(
    parents: Parents, config: EvaluateConfig, task: MergeBaseTask, out: Path
) -> dict[str, Any]:
    """Both folds against base + adapter as trained, on the validation split; writes `results.json`.

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
    found: dict[Fold, Comparison] = {}
    with LogProbabilities(trained.lm, chats, len(tokenizer), out) as as_trained:
        trained.lm.close()
        gc.collect()
        for role, fold in FOLDS.items():
            opened = open_model({"model": parents[role], "base": base}, config, tokenizer=tokenizer)
            found[fold] = compare(as_trained, opened.lm, other_is_reference=False)
            opened.lm.close()
            gc.collect()
    evidence = _evidence(found)
    decision = decide(evidence)
    said = {
        **decision.model_dump(mode="json"),
        **evidence.model_dump(mode="json"),
        "merged": {fold: parents[role].id for role, fold in FOLDS.items()},
        "fidelity": {fold: summarize(compared) for fold, compared in found.items()},
    }
    words = f"the first {len(chats.rows)} chats of the validation split of dataset {dataset.id[:12]}"
    _write(parents, config, task, found, {**said, "words": words}, out)
    return {"merge_base": said, "tasks": {}, "measured_on": words, "computed_with": trained.words}


def _evidence(found: dict[Fold, Comparison]) -> Evidence:
    first, second = found["16bit"], found["nf4"]
    answer = first.answer
    if not answer.any():
        raise InvalidInput(
            "no answer lies within the compared tokens of the validation split; raise the task's tokens"
        )
    owners, inside = np.unique(first.chat[answer], return_inverse=True)
    difference = ByChat(inside, len(owners)).mean((first.loss - second.loss)[answer])
    pairs = [(a, b) for a, b in zip(first.right, second.right, strict=True) if a is not None]
    return Evidence(
        chats=len(owners),
        loss={fold: float(one.loss[answer].mean()) for fold, one in found.items()},
        loss_difference=Figure(**{key: difference[key] for key in ("value", "low", "high")}),
        right={"16bit": _share([a for a, _ in pairs]), "nf4": _share([bool(b) for _, b in pairs])},
        gained=sum(a and not b for a, b in pairs),
        lost=sum(bool(b) and not a for a, b in pairs),
        compared=len(pairs),
        kl={fold: float(one.kl.mean()) for fold, one in found.items()},
    )


def _share(marks: list[bool]) -> float:
    return sum(marks) / len(marks) if marks else 0.0


def _write(
    parents: Parents, config: EvaluateConfig, task: MergeBaseTask, found: dict[Fold, Comparison],
    said: dict[str, Any], out: Path,
) -> None:  # fmt: skip
    """`results.json`, and per validation chat the answer's loss in both folds."""
    first, second = found["16bit"], found["nf4"]
    rows = []
    for k in range(len(first.right)):
        mine = (first.chat == k) & first.answer
        losses = {f"loss_{fold}": float(one.loss[mine].mean()) for fold, one in found.items() if mine.any()}
        rows.append({"document": k, "tokens": int(mine.sum()), **losses,
                     "right_16bit": first.right[k], "right_nf4": second.right[k]})  # fmt: skip
    raw = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode()
    file = samples_file(task.name)
    write(out / file, raw)
    entry = {
        "kind": "merge-base", "config": task.model_dump(mode="json"), **said,
        "config_digest": digest(task.model_dump(mode="json")), "n": len(rows),
        "samples": file, "samples_sha256": sha256(raw).hexdigest(),
    }  # fmt: skip
    results = {
        "schema": 1,
        "seed": config.seed,
        "model": {"subject": parents["model"].id, "parents": {r: p.id for r, p in parents.items()}},
        "tasks": {task.name: entry},
    }
    text = json.dumps(results, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    write(out / "results.json", text.encode())
