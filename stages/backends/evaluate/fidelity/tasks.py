"""The fidelity tasks of an evaluation: the model's log-probabilities once, then each reference in turn."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path

from registry.artifacts import digest
from registry.evaluation_results import FidelityResult, MergedWeights, Parity, write_samples
from stages.backends.chat import load_tokenizer
from stages.backends.evaluate.fidelity.distances import (
    LogProbabilities,
    compare,
    read_chats,
    samples,
    summarize,
)
from stages.backends.evaluate.fidelity.layers import compare_layers
from stages.backends.evaluate.fidelity.parity import compare_readers
from stages.backends.evaluate.fidelity.rounding import rounding_cost
from stages.backends.evaluate.fidelity.weights import compare_weights
from stages.backends.evaluate.open_model import OpenedModel, open_model
from stages.backends.evaluate.torch_lm import TorchLM
from stages.backends.tokenizer import tokenizer_home
from stages.config.evaluate import EvaluateConfig, FidelityTask
from stages.contract import Parent, Parents
from stages.errors import InvalidInput
from stages.quantization.distance import beyond_usual, grid_of
from stages.quantization.method import Grid


@dataclass(frozen=True)
class FidelityResults:
    """Of each task how near, of all of them how chats are read, and of a merge what arrived."""

    tasks: dict[str, FidelityResult]
    parity: Parity
    weights: MergedWeights | None


def run_fidelity(
    measured: OpenedModel, parents: Parents, config: EvaluateConfig, out: Path
) -> FidelityResults:
    """Compare `measured`, which is closed, with the reference of each fidelity task.

    Raises `InvalidInput` for a parent that a task needs and was not given.
    """
    tasks = [task for task in config.tasks if isinstance(task, FidelityTask)]
    references = {task.name: _reference(task, parents) for task in tasks}
    base = parents.get("base", parents["model"])
    tokenizer = load_tokenizer(_tokenizer_home(parents, base))
    chats = read_chats(_dataset(parents).path / "test.parquet", tokenizer, tasks[0].chats, tasks[0].tokens)
    entries: dict[str, FidelityResult] = {}
    with LogProbabilities(measured.lm, chats, len(tokenizer), out) as kept:
        measured.lm.close()
        gc.collect()
        for task in tasks:
            exact = task.adapter and task.nf4 is None
            setting = config.model_copy(update={"nf4": task.nf4})
            opened = open_model(references[task.name], setting, exact, tokenizer)
            entry = _compare(kept, task, opened, references[task.name], out)
            grid = _grid_of_far(task, entry, parents)
            if grid is not None and isinstance(opened.lm, TorchLM):
                entry["rounding"] = rounding_cost(opened.lm, kept.chats, kept.vocabulary, grid, out)
            opened.lm.close()
            gc.collect()
            if grid is not None:
                origin = parents["reference" if task.reference == "reference" else "base"]
                entry["layers"] = compare_layers(parents["model"].path, origin.path, grid)
            entries[task.name] = entry
    # an adapter may bring a tokenizer of its own; one in a GGUF cannot
    of_model = any(parents["model"].path.glob("*.gguf"))
    holder = parents["model"] if of_model else parents.get("adapter", parents["model"])
    parity = compare_readers(holder.path, base.path, tokenizer, chats.messages)
    return FidelityResults(entries, parity, _weights(parents))


def _tokenizer_home(parents: Parents, base: Parent) -> Path:
    """Whose tokenizer it was trained with: its adapter's, that of the model it was made from, its base's."""
    adapter = parents.get("adapter") or parents.get("reference_adapter")
    made_from = parents.get("reference", base).path
    return tokenizer_home(tokenizer_home(base.path, made_from), adapter.path if adapter else None)


def _dataset(parents: Parents) -> Parent:
    if "dataset" not in parents:
        raise InvalidInput("a fidelity task compares on held-out rows, but no prepared dataset was given")
    return parents["dataset"]


def _reference(task: FidelityTask, parents: Parents) -> dict[str, Parent]:
    """The parents under the roles that opening the reference needs."""
    wanted = [task.reference, *["reference_adapter"] * task.adapter]
    missing = [role for role in wanted if role not in parents]
    if missing:
        raise InvalidInput(
            f"task {task.name} compares with the {' and the '.join(wanted)}, but no {missing[0]} was given"
        )
    opened = {"model": parents[task.reference], "base": parents.get("base", parents[task.reference])}
    return {**opened, **({"adapter": parents["reference_adapter"]} if task.adapter else {})}


def _compare(
    kept: LogProbabilities, task: FidelityTask, opened: OpenedModel, reference: dict[str, Parent], out: Path
) -> FidelityResult:
    compared = compare(kept, opened.lm)
    rows = samples(compared, kept.chats, task.name)
    subject = reference.get("adapter", reference["model"])
    ids = {role: parent.id for role, parent in reference.items() if role != "base"}
    nf4 = task.nf4.model_dump(mode="json") if task.nf4 else None
    return {
        "kind": "fidelity",
        "config": task.model_dump(mode="json"),
        "config_digest": digest(task.model_dump(mode="json")),
        "fewshot": 0,
        "limit": task.chats,
        "metric": "kl_mean",
        **write_samples(out, task.name, rows),
        "reference": {
            "parents": ids,
            "nf4": nf4,
            "subject": subject.id,
            "digest": digest({"parents": ids, "nf4": nf4}),
            "words": opened.description,
        },
        "words": f"the first {len(rows)} chats of the test split",
        "finite": True,
        **summarize(compared),
    }


def _grid_of_far(task: FidelityTask, entry: FidelityResult, parents: Parents) -> Grid | None:
    """Where a file is farther than is usual from what it was made from: what to round that to.

    An adapter apart is held against the same sum in the base's own weights.
    """
    quant = parents["model"].quant
    of_its_own = task.reference == "reference" or (task.adapter and task.nf4 is None)
    return grid_of(quant) if of_its_own and beyond_usual(quant, entry) else None


def _weights(parents: Parents) -> MergedWeights | None:
    """Of a merge, what arrived of its adapter; None for any other model, or without base and adapter."""
    model, adapter = parents["model"], parents.get("reference_adapter")
    if adapter is None or model.kind != "merged" or "base" not in parents:
        return None
    from stages.training_record import recorded_nf4

    merged_into_nf4 = model.quant is not None and model.quant.merge_base == "nf4"
    nf4 = recorded_nf4(adapter) if merged_into_nf4 else None
    return compare_weights(parents["base"].path, adapter.path, model.path, nf4)
