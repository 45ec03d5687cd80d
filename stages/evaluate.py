"""Evaluate a model as it is: quantized base, base + adapter, merged, GPTQ or GGUF.

`registry.evaluation_results` has what `results.json` says. A task of kind `fidelity` tells how near the model
is to another one: `kl_mean`, `kl_p99`, `same_top`, `flips`, `perplexity_ratio`, and `answer_kl_mean` and
`answer_perplexity_ratio`.

KL is Σ p·(log p − log q) in nats per token, p the reference's and q this model's distribution over the
tokens that the tokenizer has; `same_top` the share of tokens whose likeliest token is the same; `flips` the
share of chats whose right answer only one of the two would write greedily (each of its tokens the likeliest),
`gained` by this model or `lost`; `perplexity_ratio` exp of the mean difference of log-loss, above 1 where
this model is worse. `answer_…`: on the tokens of the answer alone. Intervals are 95 %, by a bootstrap over
chats. `subject` is the reference's artifact id (an adapter's where it carries one), `digest` the sha256 over
the ids and settings it was opened with. `parity` beside the tasks compares the tokenizers and templates.
"""

from __future__ import annotations

from pathlib import Path

from registry.artifacts import Relation
from stages.config.evaluate import EvaluateConfig
from stages.contract import Facts, Parents

VERSION = 5
TOOLS = ("lm-eval", "torch", "transformers", "peft", "bitsandbytes", "gptqmodel", "llama-cpp-python")
RELATIONS: dict[str, Relation] = {
    "model": "evaluation_of",
    "adapter": "evaluation_of",
    "rival": "evaluation_of",
    "base": "tokenized_for",
    "reference": "compared_with",
    "reference_adapter": "compared_with",
    "dataset": "evaluated_on",
}
"""Role of a parent → how the result relates to it."""


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

    metrics = measure(parents, config, out)
    return Facts(kind="evaluation", base=parents["model"].base, metrics=dict(metrics))
