"""One evaluation from opening the model to `results.json`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from lm_eval.api.instance import Instance

from registry.evaluation_results import (
    EvaluationMetrics,
    EvaluationResults,
    ScoredResult,
    write_answers,
    write_results,
)
from stages.backends.chat import render
from stages.backends.evaluate.embedding import embedder_of
from stages.backends.evaluate.fidelity.tasks import run_fidelity
from stages.backends.evaluate.fidelity.weights import nonfinite_tensors
from stages.backends.evaluate.heldout import EXACT
from stages.backends.evaluate.likelihood.labelled import run_labelled
from stages.backends.evaluate.likelihood.perplexity import run_perplexity
from stages.backends.evaluate.likelihood.preference import run_preference
from stages.backends.evaluate.lm_eval_tasks import run_task
from stages.backends.evaluate.merge_choice import compare_merges
from stages.backends.evaluate.open_model import OpenedModel, open_model
from stages.backends.evaluate.prompts import check_metrics, system_message
from stages.backends.evaluate.token_lm import TokenLM
from stages.config.evaluate import (
    EvaluateConfig,
    FidelityTask,
    HeldoutTask,
    LabelledTask,
    LmEvalTask,
    MergeBaseTask,
    PerplexityTask,
    PreferenceTask,
)
from stages.contract import Parent, Parents, toolchain
from stages.errors import Diverged

ANSWER_TOKENS = 64


LIKELIHOODS: Mapping[type, Callable[..., ScoredResult]] = {
    PreferenceTask: run_preference,
    LabelledTask: run_labelled,
    PerplexityTask: run_perplexity,
}
"""Tasks of what a model finds how likely, and what runs them."""


def measure(parents: Parents, config: EvaluateConfig, out: Path) -> EvaluationMetrics:
    """Measure, write samples, `answers.json` and, last, `results.json`; return the facts' metrics."""
    with _quiet():
        only = config.tasks[0]
        if isinstance(only, MergeBaseTask):
            return compare_merges(parents, config, only, out)
        check_metrics(config, parents)
        embedder = embedder_of(config, parents)
        measured = open_model(parents, config)
        scored: dict[str, ScoredResult] = {}
        with _naming_the_damage(parents["model"]):
            for task in config.tasks:
                dataset = parents.get("dataset")
                if isinstance(task, HeldoutTask | LmEvalTask):
                    scored[task.name] = run_task(measured.lm, task, dataset, config.seed, out, embedder)
                elif (run := LIKELIHOODS.get(type(task))) is not None:
                    scored[task.name] = run(measured.lm, task, dataset, out)
            answers = _ask(measured.lm, parents, config)
            asked = any(isinstance(task, FidelityTask) for task in config.tasks)
            compared = run_fidelity(measured, parents, config, out) if asked else None
    write_answers(out, answers)
    results = _results(parents, config, measured)
    results["tasks"] |= scored
    metrics = EvaluationMetrics()
    if compared is not None:
        results["tasks"] |= compared.tasks
        results["parity"], results["weights"] = compared.parity, compared.weights
        metrics |= {"fidelity": compared.tasks, "parity": compared.parity, "weights": compared.weights}
    write_results(out, results)
    if main := _main_metrics(config):
        metrics["main"] = main
    return metrics | {
        "tasks": {name: task["metrics"] for name, task in scored.items()},
        "measured_on": "; ".join(f"{name}: {task['words']}" for name, task in scored.items()),
        "computed_with": measured.description,
        "bytes": measured.bytes,
        "bits_per_weight": measured.bits_per_weight,
        "parameters": measured.parameters,
    }


@contextlib.contextmanager
def _naming_the_damage(model: Parent) -> Iterator[None]:
    """Say which tensors are not finite where the logits are not."""
    try:
        yield
    except Diverged as error:
        damaged = [] if list(model.path.glob("*.gguf")) else nonfinite_tensors(model.path)
        if not damaged:
            raise
        raise Diverged(
            f"{error}; NaN or infinite values are in {len(damaged)} of its tensors: {', '.join(damaged[:3])}"
        ) from None


def _main_metrics(config: EvaluateConfig) -> dict[str, str]:
    """Task → its main metric, of tasks on held-out rows where that is another than `exact_match`."""
    mains = {task.name: task.metrics[0].scores[0] for task in config.tasks if isinstance(task, HeldoutTask)}
    mains |= {
        task.name: task.scores[0]
        for task in config.tasks
        if isinstance(task, PreferenceTask | LabelledTask | PerplexityTask)
    }
    return {task: metric for task, metric in mains.items() if metric != EXACT}


def _results(parents: Parents, config: EvaluateConfig, measured: OpenedModel) -> EvaluationResults:
    subject = parents.get("adapter") or parents["model"]
    return {
        "schema": 1,
        "harness": {"name": "lm-eval", "version": toolchain(["lm-eval"])["lm-eval"]},
        "seed": config.seed,
        "chat_template": measured.lm.tokenizer_name,
        "model": {
            "subject": subject.id,
            "parents": {role: parent.id for role, parent in parents.items()},
            "nf4": config.nf4.model_dump(mode="json") if config.nf4 else None,
            "computed_with": measured.description,
            "bytes": measured.bytes,
            "bits_per_weight": measured.bits_per_weight,
            "parameters": measured.parameters,
        },
        "tasks": {},
    }


def _ask(lm: TokenLM, parents: Parents, config: EvaluateConfig) -> list[dict[str, str]]:
    """Greedy answers to the questions, under the dataset's system message where all its rows share one."""
    if not config.questions:
        return []
    system = system_message(parents["dataset"].path) if "dataset" in parents else None
    before = [{"role": "system", "content": system}] if system else []
    settings = {"until": [], "max_gen_toks": ANSWER_TOKENS, "do_sample": False}
    requests = []
    for question in config.questions:
        prompt = render(lm.tokenizer, [*before, {"role": "user", "content": question}], True)
        requests.append(Instance("generate_until", {"question": question}, (prompt, settings), 0))
    answers = lm.generate_until(requests)
    return [{"question": q, "answer": a.strip()} for q, a in zip(config.questions, answers, strict=True)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' progress bars and hints out of the stage's own log."""
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(name) for name in ("transformers", "gptqmodel", "torchao")]
    levels = [logger.level for logger in loggers]
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
