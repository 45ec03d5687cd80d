"""Evaluate a model as it is: quantized base, base + adapter, merged, GPTQ or GGUF.

What `results.json` says of a task of kind `fidelity` (how near the model is to another one):

    tasks.NAME = {
      "kind": "fidelity", "reference": {"subject", "parents", "nf4", "digest", "words"},
      "metrics": {kl_mean, kl_p99, same_top, flips, perplexity_ratio,
                  answer_kl_mean, answer_perplexity_ratio: {value, low, high, n}},
      "flips": {"gained", "lost"}, "finite": true, "tokens", "n", "samples", "samples_sha256", "config", …}

KL is Σ p·(log p − log q) in nats per token, p the reference's and q this model's distribution over the
tokens that the tokenizer has; `same_top` the share of tokens whose likeliest token is the same; `flips` the
share of chats whose right answer only one of the two would write greedily (each of its tokens the likeliest),
`gained` by this model or `lost`; `perplexity_ratio` exp of the mean difference of log-loss, above 1 where
this model is worse. `answer_…`: on the tokens of the answer alone. Intervals are 95 %, by a bootstrap over
chats. `subject` is the reference's artifact id (an adapter's where it carries one), `digest` the sha256 over
the ids and settings it was opened with. `parity` beside the tasks compares the tokenizers and templates.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from stages.contract import Facts, Parents, StageConfig
from stages.train import Nf4Config

VERSION = 5
TOOLS = ("lm-eval", "torch", "transformers", "peft", "bitsandbytes", "gptqmodel", "llama-cpp-python")


MOST_CHOICES = 64
"""Distinct answers that `choice` compares: each is read after every question."""


class HeldoutTask(StageConfig):
    """The test split of the prepared dataset: generate the answer, compare it exactly.

    Where the distinct answers are few, the likelihood of each is compared too (`choice`), which is fair
    to a model that does not know the answer's form.
    """

    kind: Literal["heldout"] = "heldout"
    name: str = Field(default="heldout", description="how the task is called in reports and gates")
    max_items: int | None = Field(
        default=None, ge=1, description="first items of the test split, in its order"
    )
    max_new_tokens: int = Field(default=32, ge=1, description="length of an answer, in tokens")
    choice: bool = Field(default=False, description="also score by the likelihood of each distinct answer")


class LmEvalTask(StageConfig):
    """A task of lm-eval: one of its own by name, or a local YAML file."""

    kind: Literal["lm-eval"] = "lm-eval"
    name: str = Field(description="task name")
    path: str | None = Field(default=None, description="directory that holds the task's YAML file")
    metric: str = Field(default="acc", description="the metric that is reported first")
    fewshot: int = Field(default=0, ge=0, description="examples put before each item")
    limit: int | None = Field(default=None, ge=1, description="first documents only; recorded")
    cluster: str | None = Field(
        default=None,
        description="field of the documents whose equal values belong together, e.g. `passage`: such items "
        "do not count as independent in a gate",
    )


class FidelityTask(StageConfig):
    """How near the model is to a reference, token by token, on the first chats of the test split."""

    kind: Literal["fidelity"] = "fidelity"
    name: str = Field(default="fidelity", description="how the comparison is called in reports and gates")
    reference: Literal["reference", "base"] = Field(
        default="reference", description="the parent that is compared with: another model, or the base"
    )
    adapter: bool = Field(default=False, description="with the reference's adapter on it, unmerged")
    nf4: Nf4Config | None = Field(default=None, description="quantize the reference like this first")
    chats: int = Field(default=64, ge=2, description="first chats of the test split, in its order")
    tokens: int = Field(
        default=64, ge=1, description="last tokens of each chat that are compared; all of it is read"
    )


class MergeBaseTask(StageConfig):
    """Which of two merges is better: into the 16-bit weights (the model) or the NF4 ones (the rival)?

    Asked of the validation split, never of the test split, on which the result will be judged.
    """

    kind: Literal["merge-base"] = "merge-base"
    name: str = Field(default="merge base", description="how the comparison is called")
    nf4: Nf4Config = Field(default_factory=Nf4Config, description="as the adapter was trained")
    chats: int = Field(default=64, ge=2, description="first chats of the validation split, in its order")
    tokens: int = Field(default=64, ge=1, description="last tokens of each chat that are compared")


def _kind(task: Any) -> str:
    """Which variant a task is; one that says nothing is held-out."""
    if isinstance(task, StageConfig):
        return str(getattr(task, "kind", ""))
    return str(task.get("kind", "heldout")) if isinstance(task, Mapping) else "heldout"


Task = Annotated[
    Annotated[HeldoutTask, Tag("heldout")]
    | Annotated[LmEvalTask, Tag("lm-eval")]
    | Annotated[FidelityTask, Tag("fidelity")]
    | Annotated[MergeBaseTask, Tag("merge-base")],
    Discriminator(_kind),
]


class EvaluateConfig(StageConfig):
    """What to measure."""

    tasks: tuple[Task, ...] = Field(
        default=(HeldoutTask(),), min_length=1, description="each measured on the same model"
    )
    batch_size: int = Field(default=16, ge=1, description="items at a time")
    questions: tuple[str, ...] = Field(
        default=(), description="asked after the tasks; answers are kept to be read"
    )
    nf4: Nf4Config | None = Field(
        default=None,
        description="quantize the base like this before it is measured (and put the adapter on it)",
    )
    context_length: int = Field(
        default=2048,
        ge=64,
        description="tokens of prompt and answer together; the model's own limit holds too",
    )
    compute_dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto",
        description="type in which 16-bit and GPTQ weights are computed on a CPU: float32 is exact, bfloat16 "
        "rounds float16 weights; `auto`: the run's answer, as for `train.nf4.compute_dtype`. A GPU with "
        "bfloat16 computes in the stored type",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="of few-shot examples")

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, tree: object) -> object:
        if isinstance(tree, dict) and "float16_on_cpu" in tree:
            raise ValueError(
                "float16_on_cpu is now compute_dtype (auto, bfloat16 or float32), and holds for all weights"
            )
        return tree

    @model_validator(mode="after")
    def _distinct_names(self) -> EvaluateConfig:
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names):
            raise ValueError(f"two tasks have one name: {names}")
        compared = {(task.chats, task.tokens) for task in self.tasks if isinstance(task, FidelityTask)}
        if len(compared) > 1:
            raise ValueError("the fidelity tasks of one evaluation compare the same chats: give all one size")
        if all(isinstance(task, FidelityTask) for task in self.tasks):
            raise ValueError("fidelity says how near a model is, not how good: give a task beside it")
        if len(names) > 1 and any(isinstance(task, MergeBaseTask) for task in self.tasks):
            raise ValueError("merge-base compares two models and stands alone: evaluate the rest separately")
        return self


def evaluate(parents: Parents, config: EvaluateConfig, out: Path) -> Facts:
    """Measure `parents["model"]` (base, merged or quantized), with `parents["adapter"]` if given.

    A PEFT adapter goes onto a 16-bit or NF4 base, a GGUF adapter onto a GGUF of its base, at run time.

    Items come from `parents["dataset"]`; for a GGUF the chat template and tokenizer of `parents["base"]`
    render the chat. Writes `samples_TASK.jsonl` (one row per item: `item` = sha256 of task, document and
    prompt; `prompt_hash`, `document` (its place in the split), `asked` (the question without the template),
    `cluster`, `target`, `answer`, `score` 0/1 or float, `metric`, and `scores` by metric), `results.json`,
    `answers.json`.
    Facts of kind `evaluation`; metrics: per task and metric `value`, `low`, `high` (95 % Wilson interval),
    `n`; plus `measured_on` in words, size in bytes and bits per weight of what was measured.
    A fidelity task compares with `parents["reference"]`, or with `parents["base"]` and, if asked,
    `parents["reference_adapter"]` on it; metrics are under `fidelity`, `parity` and `weights`.
    A merge-base task compares `parents["model"]` and `parents["rival"]`, both made of `parents["base"]` and
    `parents["reference_adapter"]`; metrics are under `merge_base`.
    `computed_with` says in which engine and type. An item that does not fit the context raises
    `InvalidInput`, NaN or infinite logits raise `Diverged`, missing samples `StageError`.
    """
    from stages.backends.evaluate.measure import measure

    found = measure(parents, config, out)
    return Facts(kind="evaluation", base=parents["model"].base, metrics=found)
