"""What can be said about an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from stages.config.metrics import DEFAULT, Metric
from stages.config.sample import SampleConfig, passable
from stages.config.scores import repeated
from stages.config.train import Nf4Config
from stages.contract import StageConfig

MOST_CHOICES = 64
"""Distinct answers that `choice` compares: each is read after every question."""


class HeldoutTask(StageConfig):
    """Held-out rows of the prepared dataset: generate the answer, score it.

    Where all expected answers are JSON, `json_valid` is scored beside the metrics. Where the distinct answers
    are few, the likelihood of each is compared too (`choice`), which is fair to a model that does not know
    the answer's form.
    """

    kind: Literal["heldout"] = "heldout"
    name: str = Field(default="heldout", description="how the task is called in reports and gates")
    split: Literal["test", "fresh", "validation"] = Field(
        default="test",
        exclude_if=lambda split: split == "test",  # evaluations from before there were others keep their keys
        description="`fresh`: of a dataset of a feed, what is held out of the rows that came since the live "
        "model's; `test`: what was held out before, which only grows; `validation`: what settings are chosen "
        "by, for `tuneline sweep` and the evaluate stage alone",
    )
    max_items: int | None = Field(default=None, ge=1, description="first items of the split, in its order")
    max_new_tokens: int = Field(default=32, ge=1, description="length of an answer, in tokens")
    choice: bool = Field(default=False, description="also score by the likelihood of each distinct answer")
    metrics: tuple[Metric, ...] = Field(
        default=DEFAULT,
        min_length=1,
        exclude_if=lambda metrics: metrics == DEFAULT,  # evaluations from before there were others
        description="what of an answer is scored, the main one first; one with its defaults may be written "
        "as its kind alone: `[exact, rouge_l]`. docs/metrics.md has them all",
    )
    turns: Literal["last", "all"] = Field(
        default="last",
        exclude_if=lambda turns: turns == "last",
        description="`all`: each answer of a chat is an item, after the chat as it stands in the data; items "
        "of one chat do not count as independent",
    )
    sample: SampleConfig | None = Field(
        default=None,
        exclude_if=lambda sample: sample is None,
        description="draw several answers to each item too, for pass@k of each metric that is 0 or 1",
    )

    @model_validator(mode="after")
    def _distinct_scores(self) -> HeldoutTask:
        if (score := repeated(self.metrics)) is not None:
            raise ValueError(f"two metrics give the score {score!r}: give one of them another name")
        if self.sample is not None and not passable(self.metrics):
            raise ValueError(
                "sample: pass@k counts right answers, and no metric of the task says 0 or 1 of an answer by "
                "itself (a judge's does not count): add one, for example exact or number"
            )
        return self


class PreferenceTask(StageConfig):
    """Held-out pairs of answers (`prepare.format: preferences`): is the chosen one likelier than the other?

    Scores, 0 or 1 per pair: `preferred`, by the likelihood of each whole answer; `preferred_per_token`, by
    its mean over the tokens, which does not favour the shorter one. Equally likely answers score 0.
    """

    kind: Literal["preference"] = "preference"
    name: str = Field(default="preference", description="how the task is called in reports and gates")
    split: Literal["test", "validation"] = Field(
        default="test",
        exclude_if=lambda split: split == "test",  # evaluations from before there were others keep their keys
        description="`validation`: as of a held-out task",
    )
    max_items: int | None = Field(default=None, ge=1, description="first pairs of the split, in its order")

    @property
    def scores(self) -> tuple[str, str]:
        return ("preferred", "preferred_per_token")


class LabelledTask(StageConfig):
    """Held-out answers that are called good or bad (`prepare.format: unpaired-preferences`): does the model
    find the good ones likelier?

    Score: `roc_auc`, the area under the ROC curve of the answers' log-likelihood per token: the share of all
    pairs of a good and a bad answer in which the good one is likelier, equal ones as half. 0.5 is chance.
    Answers to one prompt do not count as independent.
    """

    kind: Literal["labelled"] = "labelled"
    name: str = Field(default="labelled", description="how the task is called in reports and gates")
    split: Literal["test", "validation"] = Field(
        default="test",
        exclude_if=lambda split: split == "test",  # as of the other tasks
        description="`validation`: as of a held-out task",
    )
    max_items: int | None = Field(
        default=None, ge=2, description="first good and first bad answers of the split, so many of each"
    )

    @property
    def scores(self) -> tuple[str]:
        return ("roc_auc",)


class PerplexityTask(StageConfig):
    """Held-out documents (`prepare.format: text`): how likely does the model find them, token by token?

    Two figures of all tokens together: `log_likelihood`, nats per token, the nearer to 0 the better, by which
    rules judge; and `perplexity`, its exponential with the sign turned, for people. Pieces of one document do
    not count as independent.
    """

    kind: Literal["perplexity"] = "perplexity"
    name: str = Field(default="perplexity", description="how the task is called in reports and gates")
    split: Literal["test", "validation"] = Field(
        default="test",
        exclude_if=lambda split: split == "test",  # as of the other tasks
        description="`validation`: as of a held-out task",
    )
    max_items: int | None = Field(default=None, ge=1, description="first pieces of the split, in its order")

    @property
    def scores(self) -> tuple[str, str]:
        return ("log_likelihood", "perplexity")


SHIPPED = "builtin:general"


def task_folder(path: str) -> Path:
    """The directory that an lm-eval task's `path` names."""
    return Path(__file__).parents[1] / "tasks" / "general" if path == SHIPPED else Path(path)


class LmEvalTask(StageConfig):
    """A task of lm-eval: one of its own by name, or a local YAML file."""

    kind: Literal["lm-eval"] = "lm-eval"
    name: str = Field(description="task name")
    path: str | None = Field(
        default=None,
        description=f"directory that holds the task's YAML file; `{SHIPPED}`: the one that comes with "
        "Tuneline (`general_knowledge`)",
    )
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
    | Annotated[PreferenceTask, Tag("preference")]
    | Annotated[LabelledTask, Tag("labelled")]
    | Annotated[PerplexityTask, Tag("perplexity")]
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

    @property
    def reads_dataset(self) -> bool:
        """Whether the result depends on the prepared dataset: on its rows, or on its system message."""
        return bool(self.questions) or not all(isinstance(task, LmEvalTask) for task in self.tasks)

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
