"""Evaluate a model as it is: quantized base, base + adapter, merged, GPTQ or GGUF."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from stages.contract import Facts, Parents, StageConfig
from stages.train import Nf4Config

VERSION = 1
TOOLS = ("lm-eval", "torch", "transformers", "peft", "bitsandbytes", "gptqmodel", "llama-cpp-python")


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


class EvaluateConfig(StageConfig):
    """What to measure."""

    tasks: tuple[HeldoutTask | LmEvalTask, ...] = Field(
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
    float16_on_cpu: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="type in which float16 weights are computed on a CPU: float32 is exact; bfloat16 rounds "
        "the weights and is several times faster on CPUs with AMX or AVX512-BF16",
    )
    seed: int = Field(default=0, ge=0, description="of few-shot examples")

    @model_validator(mode="after")
    def _distinct_names(self) -> EvaluateConfig:
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names):
            raise ValueError(f"two tasks have one name: {names}")
        return self


def evaluate(parents: Parents, config: EvaluateConfig, out: Path) -> Facts:
    """Measure `parents["model"]` (base, merged or quantized), with `parents["adapter"]` if given.

    Items come from `parents["dataset"]`; for a GGUF the chat template and tokenizer of `parents["base"]`
    render the chat. Writes `samples_TASK.jsonl` (one row per item: `item` = sha256 of task, document and
    prompt; `prompt_hash`, `target`, `answer`, `score` 0/1 or float, `metric`, and `scores` by metric),
    `results.json`, `answers.json`.
    Facts of kind `evaluation`; metrics: per task and metric `value`, `low`, `high` (95 % Wilson interval),
    `n`; plus `measured_on` in words, size in bytes and bits per weight of what was measured.
    `computed_with` says in which engine and type. An item that does not fit the context raises
    `InvalidInput`, NaN or infinite logits raise `Diverged`, missing samples `StageError`.
    """
    from stages.backends.measure import measure

    found = measure(parents, config, out)
    return Facts(kind="evaluation", base=parents["model"].base, metrics=found)
