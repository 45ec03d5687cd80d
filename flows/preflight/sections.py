"""What the recipe alone says that cannot work: sections that are each valid, and do not fit together."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from flows.errors import Usage
from flows.evaluation_plan import AGAINST_BASE, AGAINST_PARENT, AGAINST_START, AGAINST_UNMERGED
from flows.gates.gate import GatePolicy
from flows.gates.judged.labels import read_labels
from flows.preflight import documents, preferences
from flows.recipe import Recipe
from registry.quantization import STORED
from serving.engine.capabilities import VLLM_RANKS, limits
from stages.config.evaluate import (
    FidelityTask,
    HeldoutTask,
    LabelledTask,
    LmEvalTask,
    MergeBaseTask,
    PerplexityTask,
    PreferenceTask,
)
from stages.config.sample import pass_scores
from stages.config.scores import real_scores
from stages.quantization import method_of

Metrics = Mapping[str, Collection[str] | None]
"""Task that is scored item by item → its metrics; None: not known."""


def problems(recipe: Recipe, metrics: Metrics) -> Iterator[str]:
    """Every problem of the recipe itself; `metrics` of its tasks: see `task_metrics`."""
    yield from _tasks(recipe)
    yield from _splits(recipe)
    yield from preferences.problems(recipe)
    yield from documents.problems(recipe)
    if recipe.gate is not None:
        kept = {name for source in recipe.prepare.sources for name in source.slices}
        yield from _rules(recipe.gate, metrics, kept)
        yield from _kinds(recipe, recipe.gate)
        yield from _evidence(recipe, recipe.gate, metrics)
        yield from _fidelity(recipe, recipe.gate)
    yield from _labels(recipe)
    yield from _engine(recipe)
    yield from _unmerged(recipe)


def task_metrics(
    recipe: Recipe, of_lm_eval: Metrics, json_answers: bool | None = None
) -> dict[str, Collection[str] | None]:
    """What each task of the recipe scores; of lm-eval's as far as `of_lm_eval` knows.

    Held-out answers that are all JSON are also scored by whether they parse: not where `json_answers` is
    False.
    """
    parse = () if json_answers is False else ("json_valid",)
    metrics: dict[str, Collection[str] | None] = {}
    for task in recipe.evaluate.tasks:
        if isinstance(task, HeldoutTask):
            listed = [score for metric in task.metrics for score in metric.scores]
            drawn = pass_scores(task.sample, task.metrics)
            metrics[task.name] = (*listed, *parse, *(["choice_acc"] if task.choice else []), *drawn)
        elif isinstance(task, PreferenceTask | LabelledTask | PerplexityTask):
            metrics[task.name] = task.scores
        elif isinstance(task, LmEvalTask):
            metrics[task.name] = of_lm_eval.get(task.name)
    return metrics


def _tasks(recipe: Recipe) -> Iterator[str]:
    compared = {AGAINST_PARENT, AGAINST_BASE, AGAINST_UNMERGED, AGAINST_START}
    taken = compared if recipe.ladder is not None else set()
    for number, task in enumerate(recipe.evaluate.tasks):
        where = f"evaluate.tasks.{number}"
        if isinstance(task, FidelityTask):
            yield f"{where}: a run compares its models as its `ladder` says; take the fidelity task out"
        elif isinstance(task, MergeBaseTask):
            yield f"{where}: a run chooses its merge as `merge.base` says; take the merge-base task out"
        elif task.name in taken:
            yield f"{where}.name: {task.name!r} is what the ladder calls a comparison; rename it"
        elif getattr(task, "split", "test") == "validation":
            yield (
                f"{where}.split: validation rows are what early stopping, merges and sweeps choose by, so a "
                "run does not judge by them; take split out"
            )
    if recipe.evaluate.nf4 is not None and recipe.evaluate.nf4 != recipe.train.nf4:
        yield "evaluate.nf4: a run measures NF4 as it trains; take it out, or set train.nf4"


def _splits(recipe: Recipe) -> Iterator[str]:
    split = recipe.prepare.split
    if split.test == 0:
        held_out = (HeldoutTask, PreferenceTask, LabelledTask, PerplexityTask)
        asking = [task.name for task in recipe.evaluate.tasks if isinstance(task, held_out)]
        if asking:
            yield (
                f"prepare.split.test: 0 leaves no rows for the held-out task {asking[0]!r}; "
                "set it above 0, for example 0.1"
            )
        elif recipe.ladder is not None:
            yield (
                "prepare.split.test: 0 leaves no chats for the ladder to compare models on; "
                "set it above 0, or ladder: null"
            )
    if split.validation == 0 and recipe.merge.base == "auto":
        yield (
            "prepare.split.validation: 0, and merge.base: auto chooses the merge on the validation split; "
            "set it above 0, or merge.base to 16bit or nf4"
        )
    if split.validation == 0 and recipe.train.early_stopping is not None:
        yield (
            "prepare.split.validation: 0, and train.early_stopping stops by the validation loss; set it "
            "above 0, or take early_stopping out"
        )


def _rules(gate: GatePolicy, metrics: Metrics, kept: Collection[str]) -> Iterator[str]:
    for number, rule in enumerate(gate.tasks):
        where = f"gate.tasks.{number}"
        if rule.task not in metrics:
            yield f"{where}.task: {_absent(rule.task, 'a task of evaluate.tasks', metrics)}"
            continue
        known = metrics[rule.task]
        column = (rule.slice or "").partition("=")[0]
        if column and column not in kept and known is not None and "json_valid" not in known:
            yield (
                f"{where}.slice: prepare.slices does not keep the column {column!r}, and no expected answer "
                "is JSON; name it there"
            )
        if known is not None and _of_a_field(rule.metric, known):
            continue
        if rule.metric == "choice_acc" and known is not None and rule.metric not in known:
            yield f"{where}.metric: choice_acc is measured where the task has choice: true; set it there"
        elif rule.metric == "json_valid" and known is not None and rule.metric not in known:
            yield f"{where}.metric: json_valid is measured where answers are JSON; no first row has one"
        elif known is not None and rule.metric not in known:
            yield f"{where}.metric: {_absent(rule.metric, f'a metric of the task {rule.task}', known)}"


def _of_a_field(metric: str, known: Collection[str]) -> bool:
    """Whether it is the figure of one field, which only the data name."""
    figure, bracket, _ = metric.partition("[")
    return bool(bracket) and metric.endswith("]") and figure in known


def _kinds(recipe: Recipe, gate: GatePolicy) -> Iterator[str]:
    """Rules that take a metric's scores for 0 and 1, which they are not."""
    held_out = [task for task in recipe.evaluate.tasks if isinstance(task, HeldoutTask)]
    real = {t.name: real_scores(t.metrics) | pass_scores(t.sample, t.metrics).keys() for t in held_out}
    real |= {
        t.name: {*t.scores} for t in recipe.evaluate.tasks if isinstance(t, LabelledTask | PerplexityTask)
    }
    for number, rule in enumerate(gate.tasks):
        names = {rule.metric, rule.metric.partition("[")[0]}
        if rule.scores == "binary" and names & real.get(rule.task, set()):
            yield f"gate.tasks.{number}.scores: {rule.metric} is not 0 or 1 for each item; set scores: real"


def _evidence(recipe: Recipe, gate: GatePolicy, metrics: Metrics) -> Iterator[str]:
    compared = {*metrics, *_comparisons(recipe)}
    for name in gate.evidence.tasks:
        if name not in compared:
            yield f"gate.evidence.tasks: {_absent(name, 'measured of the candidate', compared)}"
    for task in recipe.evaluate.tasks:
        if isinstance(task, FidelityTask | MergeBaseTask) or task.name not in {r.task for r in gate.tasks}:
            continue
        most = task.limit if isinstance(task, LmEvalTask) else task.max_items
        if most is not None and most < gate.evidence.min_items:
            yield (
                f"gate.evidence.min_items: asks for {gate.evidence.min_items:,} items of each task, and "
                f"{task.name} measures at most {most:,}"
            )


def _fidelity(recipe: Recipe, gate: GatePolicy) -> Iterator[str]:
    if not gate.fidelity or recipe.promote is None or recipe.promote.candidate not in recipe.made:
        return
    form, compared = _form(recipe), _comparisons(recipe)
    mine = next((limits for limits in gate.fidelity if limits.quant.lower() == form.lower()), None)
    if mine is None:
        named = ", ".join(limits.quant for limits in gate.fidelity)
        yield (
            f"gate.fidelity: has limits for {named}, and none for {form}, which is what promote.candidate "
            f"{recipe.promote.candidate} is"
        )
    elif not compared:
        yield "gate.fidelity: the ladder compares nothing (ladder: null); give it a ladder, or no limits"
    elif mine.task is not None and mine.task not in compared:
        yield f"gate.fidelity, {mine.quant}: {_absent(mine.task, 'a comparison of the ladder', compared)}"


def _comparisons(recipe: Recipe) -> tuple[str, ...]:
    """The ladder's comparisons of the candidate."""
    if recipe.ladder is None or recipe.promote is None:
        return () if recipe.ladder is None else (AGAINST_PARENT, AGAINST_BASE, AGAINST_UNMERGED)
    candidate = recipe.promote.candidate
    if candidate == "merged":
        return (AGAINST_PARENT,) if recipe.merge.base == "nf4" else (AGAINST_PARENT, AGAINST_UNMERGED)
    if candidate == "adapter" and recipe.adapter is not None and not recipe.adapter.on_16bit:
        return (AGAINST_PARENT, AGAINST_UNMERGED, AGAINST_BASE)
    return (AGAINST_PARENT, AGAINST_BASE)


def _form(recipe: Recipe) -> str:
    """The candidate's quantization, as limits of fidelity name it."""
    assert recipe.promote is not None
    if recipe.promote.candidate == "adapter" and recipe.adapter is not None:
        return "none" if recipe.adapter.on_16bit else recipe.adapter.base
    method = next((q for q in recipe.quantize if q.label == recipe.promote.candidate), None)
    return "none" if method is None else method.form


def _labels(recipe: Recipe) -> Iterator[str]:
    """Whether people's labels can be read, before anything is trained."""
    if recipe.promote is not None and recipe.promote.labels is not None:
        try:
            read_labels(Path(recipe.promote.labels))
        except Usage as error:
            yield f"promote.labels: {error}"


def _engine(recipe: Recipe) -> Iterator[str]:
    """Whether the engine reads what is promoted."""
    if recipe.deploy is None or recipe.promote is None or recipe.promote.candidate == "adapter":
        return
    candidate = recipe.promote.candidate
    method = next((q for q in recipe.quantize if q.label == candidate), None)
    serves = STORED["none" if method is None else method.method].engine
    engine = limits(recipe.deploy.engine)
    if recipe.deploy.engine != serves:
        yield (
            f"deploy.engine: {recipe.deploy.engine} does not serve {candidate}; set it to {serves}, or "
            "promote another candidate"
        )
    elif method is not None and (reason := method_of(method).no_kernel(method, engine)):
        yield f"deploy.engine: {reason}"
    if recipe.deploy.max_new_tokens >= recipe.deploy.context_length:
        yield (
            f"deploy.max_new_tokens: {recipe.deploy.max_new_tokens} leave no room for a question in "
            f"deploy.context_length {recipe.deploy.context_length}"
        )


def _unmerged(recipe: Recipe) -> Iterator[str]:
    """What an engine cannot apply of an adapter that is served beside its base."""
    if recipe.adapter is None:
        return
    lora, engine = recipe.train.lora, limits("vllm" if recipe.adapter.on_16bit else "llama.cpp")
    if lora.modules_to_save and "saved" in engine.refused_lora:
        yield (
            f"train.lora.modules_to_save: {engine.name} applies no modules stored whole beside a shared "
            "base; take them out, or take the adapter section out and serve the merged model"
        )
    if lora.rslora and "rslora" in engine.refused_lora:
        yield (
            f"train.lora.rslora: {engine.name} does not apply rank-stabilized scaling to an adapter; set it "
            "to false and alpha to alpha · sqrt(rank), or set adapter.base: 16bit"
        )
    if lora.dora and "dora" in engine.refused_lora:
        yield (
            f"train.lora.dora: {engine.name} does not apply DoRA to an adapter beside a shared base; set it "
            "to false, or take the adapter section out and serve the merged model"
        )
    if recipe.adapter.on_16bit and lora.rank > VLLM_RANKS[-1]:
        yield f"train.lora.rank: {lora.rank}, and {engine.name} applies ranks up to {VLLM_RANKS[-1]}"


def _absent(name: str, what: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{name!r} is not {what}{hint} (expected one of {', '.join(sorted(known)) or 'none'})"
