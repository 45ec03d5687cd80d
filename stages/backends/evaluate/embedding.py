"""How near answers are to their references, in the hidden states of the base that all compared ones share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stages.backends.arithmetic import effective
from stages.config.embedding_metric import EmbeddingMetric
from stages.config.evaluate import EvaluateConfig, HeldoutTask
from stages.contract import Parents
from stages.errors import InvalidInput
from stages.scoring.user_function import Answered


class Embedder(NamedTuple):
    """The base that embeds, the digest of its weights, and the type that it computes in."""

    path: Path
    base: str
    dtype: str

    @property
    def recorded(self) -> dict[str, str]:
        """What decides the states: two evaluations agree on it before their scores are compared."""
        return {"base": self.base, "dtype": self.dtype}


def embedder_of(config: EvaluateConfig, parents: Parents) -> Embedder | None:
    """The base whose hidden states are compared; None where no metric asks.

    Raises `InvalidInput` where the model is not a base in 16 bits and none stands beside it.
    """
    tasks = (task for task in config.tasks if isinstance(task, HeldoutTask))
    metrics = [m for task in tasks for m in task.metrics if isinstance(m, EmbeddingMetric)]
    if not metrics:
        return None
    model = parents["model"]
    base = parents.get("base") or (model if model.kind == "base" else None)
    if base is None or list(base.path.glob("*.gguf")):
        raise InvalidInput(
            f"metric {metrics[0].name}: the {model.kind} {model.id[:12]} has no base beside it whose hidden "
            "states could be compared; give the base model's directory as base"
        )
    weights = base.base.weights_digest if base.base is not None else base.id
    return Embedder(base.path, weights, str(effective(config.compute_dtype)).removeprefix("torch."))


def similarities(embedder: Embedder, items: Sequence[Answered]) -> list[float]:
    """Of each item the largest cosine, -1 to 1, of its answer and a reference; 1 where the texts are equal.

    States are taken less the mean of the distinct references' (where there are several), which any two texts
    of a language model have in common (Mu and Viswanath 2018, arXiv 1702.01417).
    """
    from stages.backends.hidden_states import LONGER, hidden_states  # seconds, which most evaluations save

    references = sorted({reference.strip() for item in items for reference in item.references})
    texts = sorted({*references, *(item.answer.strip() for item in items)})
    states = hidden_states(embedder.path, embedder.dtype, texts, LONGER).astype(np.float64)
    rows = dict(zip(texts, states, strict=True))
    if len(references) > 1:
        middle = np.mean([rows[reference] for reference in references], axis=0)
        rows = {text: row - middle for text, row in rows.items()}
    return [max(_cosine(rows, item.answer.strip(), r.strip()) for r in item.references) for item in items]


def _cosine(rows: Mapping[str, Any], answer: str, reference: str) -> float:
    if answer == reference:
        return 1.0
    one, other = rows[answer], rows[reference]
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(np.clip(one @ other / lengths, -1.0, 1.0)) if lengths else 0.0
