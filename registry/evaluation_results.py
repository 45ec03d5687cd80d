"""What an evaluation's files say: `results.json` and the samples of its tasks, as written and as read.

The types describe plain JSON and change nothing of it. The bytes of both files, and so the order of their
keys, are part of the evaluation's id. Figures in the metrics of an evaluation's manifest have the same types.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, TypeGuard, cast

from registry.evaluation_figures import LayerComparison, Metric, RoundingCost

RESULTS, ANSWERS = "results.json", "answers.json"
GOOD, BAD = "good", "bad"
"""What a task of kind `labelled` has for an item's target: what its answer was called."""

Settings = dict[str, Any]
"""The configuration of a task as its owner dumps it: this repository's, or lm-eval's."""


class Samples(TypedDict):
    """Where the rows of a task lie, and that they are those which were measured."""

    n: int
    samples: str
    samples_sha256: str


class ScoredResult(Samples):
    """Held-out rows, or a task of lm-eval: items with a score each."""

    config: Settings
    choice: NotRequired[dict[str, object] | None]
    fewshot: int
    limit: int | None
    metric: str
    dataset: NotRequired[str]
    words: str
    judges: NotRequired[Mapping[str, Mapping[str, Any]]]
    embedded_with: NotRequired[Mapping[str, str]]
    chat_template_applied_by: str
    config_digest: str
    metrics: dict[str, Metric]


class FidelityReference(TypedDict):
    """What a model was compared with: `digest` is over `parents` and `nf4`."""

    parents: dict[str, str]
    nf4: Settings | None
    subject: str
    digest: str
    words: str


class Distances(TypedDict):
    """How near one model is to another on the same chats."""

    metrics: dict[str, Metric]
    flips: dict[str, int]
    """Answers that only one of the two gets right: `gained` by the model that was measured, or `lost`."""
    tokens: int


class FidelityResult(Samples, Distances):
    """How near the measured model is to a reference."""

    kind: Literal["fidelity"]
    config: Settings
    config_digest: str
    fewshot: int
    limit: int
    metric: str
    reference: FidelityReference
    words: str
    finite: bool
    rounding: NotRequired[RoundingCost]
    layers: NotRequired[LayerComparison | None]


class MergeChoice(TypedDict):
    """Which of two merges is better, and on what evidence (`stages.statistics.merge_choice`)."""

    chosen: Literal["16bit", "nf4"]
    by: Literal["loss", "score", "nearness"]
    reason: str
    merged: dict[str, str]
    fidelity: dict[str, Distances]


class MergeChoiceResult(Samples, MergeChoice):
    """A task of kind merge-base."""

    kind: Literal["merge-base"]
    config: Settings
    words: str
    config_digest: str


TaskResult = ScoredResult | FidelityResult | MergeChoiceResult


def is_fidelity(result: TaskResult) -> TypeGuard[FidelityResult]:
    """Whether a task compares the model with another one, and scores no items."""
    return result.get("kind") == "fidelity"


class Parity(TypedDict):
    """Whether a model reads and ends chats as its base does."""

    chats: int
    equal: int
    first_difference: str | None
    double_bos: bool
    template: bool
    vocabulary: int
    special: dict[str, list[Any]]


class ModuleShare(TypedDict):
    """A module, and the share of its update that arrived."""

    module: str
    share: float


class MergedWeights(TypedDict):
    """What arrived in a merge: `modules` that the adapter changes, `wrong`: those whose update did not arrive
    once; `foreign`: tensors that should be the base's and are not; `tied`: the settings tie a head that has
    weights of its own."""

    modules: int
    wrong: list[ModuleShare]
    foreign: list[str]
    missing: list[str]
    added: list[str]
    nonfinite: list[str]
    tied: bool


class MeasuredModel(TypedDict):
    """What was measured, and in which engine and type."""

    subject: str
    parents: dict[str, str]
    nf4: NotRequired[Settings | None]
    computed_with: NotRequired[str]
    bytes: NotRequired[int]
    bits_per_weight: NotRequired[float]
    parameters: NotRequired[int]


class EvaluationResults(TypedDict):
    """`results.json`. The evaluation that chooses a merge has neither harness nor chat template."""

    schema: int
    harness: NotRequired[dict[str, str]]
    seed: int
    chat_template: NotRequired[str]
    model: MeasuredModel
    tasks: dict[str, TaskResult]
    parity: NotRequired[Parity]
    weights: NotRequired[MergedWeights | None]


class EvaluationMetrics(TypedDict, total=False):
    """The metrics of an evaluation's manifest."""

    fidelity: dict[str, FidelityResult]
    parity: Parity
    weights: MergedWeights | None
    merge_base: MergeChoice
    tasks: dict[str, dict[str, Metric]]
    main: dict[str, str]  # task on held-out rows → its main metric, where that is not `exact_match`
    measured_on: str
    computed_with: str
    bytes: int
    bits_per_weight: float
    parameters: int


class Drawn(TypedDict):
    """An answer that was drawn, and whether it is right by each metric that is 0 or 1."""

    seed: int
    answer: str
    scores: Mapping[str, float]


class Item(TypedDict):
    """A row of a scored task's samples. `references`: where there are several right answers, all of them;
    `slices`: column of the data → value."""

    item: str
    prompt_hash: str
    document: int
    asked: str
    cluster: str | None
    target: str
    answer: str
    scores: dict[str, float]
    counts: NotRequired[Mapping[str, Sequence[float]]]
    judged: NotRequired[Mapping[str, Mapping[str, Any]]]
    drawn: NotRequired[Sequence[Drawn]]
    references: NotRequired[Sequence[str]]
    slices: NotRequired[Mapping[str, str]]
    metric: NotRequired[str]
    score: NotRequired[float]


def parse_results(raw: bytes) -> EvaluationResults:
    """`results.json` from its bytes. Raises ValueError for what is not JSON, NaN and infinity included."""
    results: EvaluationResults = json.loads(raw, parse_constant=refuse_constant)
    return results


def read_results(evaluation: Path) -> EvaluationResults:
    """`results.json` in an evaluation's directory. Raises OSError, and ValueError as `parse_results`."""
    return parse_results((evaluation / RESULTS).read_bytes())


def first_heldout(evaluation: Path) -> ScoredResult | None:
    """The first task on held-out rows of a dataset that settings were not chosen by."""
    tasks = ((task, task["config"]) for task in read_results(evaluation)["tasks"].values())
    heldout = (t for t, c in tasks if c.get("kind") == "heldout" and c.get("split") != "validation")
    return cast(ScoredResult | None, next(heldout, None))


def read_items(evaluation: Path, task: Samples, most: int | None = None) -> list[Item]:
    """The rows of a scored task, or the first `most` of them."""
    lines = (evaluation / task["samples"]).read_bytes().splitlines()
    return [json.loads(line) for line in lines[:most]]


def write_samples(out: Path, task: str, rows: Iterable[Mapping[str, Any]]) -> Samples:
    """One JSON document per line, under a file name made of the task's."""
    lines = [json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows]
    raw = "".join(lines).encode()
    name = f"samples_{re.sub(r'[^A-Za-z0-9._-]', '_', task)}.jsonl"
    _write(out / name, raw)
    return {"n": len(lines), "samples": name, "samples_sha256": sha256(raw).hexdigest()}


def write_results(out: Path, results: EvaluationResults) -> None:
    """Write `results.json`. Raises ValueError for a number that is not finite."""
    _write_json(out / RESULTS, results)


def write_answers(out: Path, answers: Sequence[Mapping[str, str]]) -> None:
    """Write `answers.json`: what was answered to the questions of the evaluation's config."""
    _write_json(out / ANSWERS, answers)


def refuse_constant(name: str) -> float:
    """For `json.loads`: NaN and infinity are not JSON."""
    raise ValueError(f"{name} is not a number in JSON")


def _write_json(file: Path, value: object) -> None:
    _write(file, (json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode())


def _write(file: Path, raw: bytes) -> None:
    """Put a file in place at once: a reader finds all of it or nothing."""
    draft = file.with_name(file.name + ".draft")
    with draft.open("wb") as stream:
        stream.write(raw)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)
