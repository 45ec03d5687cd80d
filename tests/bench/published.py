"""What `tuneline check` reckons for QLoRA on a GPU, beside what other projects publish: `python -m
tests.bench.published`.

Shapes are those of the models' own configurations, without weights. Where a source names its settings (rows
of a step, tokens, rank), ours are the same; where it does not, a row of 512 tokens and rank 16. All with
gradient checkpointing and weights packed in NF4. The last column reckons with what the source holds
otherwise than we do, where it says so or its code shows it. Nothing here runs on a GPU.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

from stages.config.train import TrainConfig
from stages.memory import (
    CUDA,
    KEPT_PER_LOGIT,
    NF4_BYTES,
    adapter_parameters,
    layer_on_gpu,
    training_memory,
)
from stages.model_shape import ModelShape, _from_config
from tests.bench.results import Report, Row

GB, GIB = 1e9, 2**30

SHAPES: dict[str, tuple[int, ...]] = {
    # hidden, intermediate, layers, heads, heads of keys, vocabulary
    "LLaMA-65B": (8192, 22016, 80, 64, 64, 32000),
    "Llama-2-7B": (4096, 11008, 32, 32, 32, 32000),
    "Llama-2-13B": (5120, 13824, 40, 40, 40, 32000),
    "Llama-2-70B": (8192, 28672, 80, 64, 8, 32000),
    "LLaMA-33B": (6656, 17920, 60, 52, 52, 32000),
    "Llama-3.1-8B": (4096, 14336, 32, 32, 8, 128256),
    "Llama-3.1-70B": (8192, 28672, 80, 64, 8, 128256),
    "Qwen-7B": (4096, 11008, 32, 32, 32, 151936),
    "Qwen-14B": (5120, 13696, 40, 40, 40, 152064),
    "Qwen-72B": (8192, 24576, 80, 64, 64, 152064),
    "Qwen2.5-14B": (5120, 13824, 48, 40, 8, 152064),
    "Qwen2.5-32B": (5120, 27648, 64, 40, 8, 152064),
}


@dataclass(frozen=True)
class Held:
    """Bytes of a number: of embedding, head and norms, and of the residuals that checkpointing keeps; of a
    logit, with its copies and gradients. Ours: 2, 4 and 18, and of logits 2^25 at most."""

    outside: int
    residual: int
    logit: int


@dataclass(frozen=True)
class Source:
    """Who publishes it, where, and how it was taken."""

    name: str
    address: str
    held: Held | None = None


PAPER = Source("QLoRA, abstract", "https://arxiv.org/abs/2305.14314")
FACTORY = Source("LLaMA-Factory, README (estimated)", "https://github.com/hiyouga/LLaMA-Factory")
WIKI = Source(
    "LLaMA-Factory, wiki",
    "https://github.com/hiyouga/LLaMA-Factory/wiki/Performance-comparison",
    Held(outside=2, residual=2, logit=KEPT_PER_LOGIT),
)
TORCHTUNE = Source(
    "torchtune, README", "https://github.com/pytorch/torchtune", Held(outside=2, residual=2, logit=4)
)
"""Logits in 16 bits, and an eighth of them in float32 at once, as its CEWithChunkedOutputLoss does."""
UNSLOTH = Source(
    "Unsloth, requirements (absolute minimum)",
    "https://unsloth.ai/docs/get-started/fine-tuning-for-beginners/unsloth-requirements",
)
H2O = Source(
    "H2O LLM Studio, performance", "https://docs.h2o.ai/h2o-llmstudio/get-started/llm-studio-performance"
)
QWEN = Source("Qwen, README", "https://github.com/QwenLM/Qwen", Held(outside=2, residual=2, logit=8))
"""A loss in 16 bits, to which the growth with the length in its own table points."""


@dataclass(frozen=True)
class Figure:
    """`published`: bytes that were taken; `card`: of a GPU on which it ran, negative where it did not fit."""

    source: Source
    model: str
    rows: int = 1
    tokens: int = 512
    rank: int = 16
    published: float = 0.0
    card: float = 0.0

    @property
    def ours(self) -> int:
        """Bytes that `check` reckons."""
        return self._reckoned(shape(self.model))

    @property
    def all_at_once(self) -> int:
        """Bytes that it reckons for a model whose logits are held all at once, as most sources hold them."""
        return self._reckoned(replace(shape(self.model), family="unknown"))

    def _reckoned(self, model: ModelShape) -> int:
        asked = settings(self.rank, self.rows, self.tokens)
        return training_memory(model, asked, self.tokens, "packed", gpu=True)

    @property
    def as_they(self) -> float | None:
        """Bytes with what the source holds otherwise, None where that is not known."""
        held, model = self.source.held, shape(self.model)
        if held is None:
            return None
        asked = settings(self.rank, self.rows, self.tokens)
        weights = (model.parameters - model.linear_parameters) * held.outside
        weights += int(model.linear_parameters * NF4_BYTES)
        kept = held.residual * model.hidden * model.layers
        kept += max(layer_on_gpu(model, asked), held.logit * model.vocabulary)
        return CUDA + weights + 16 * adapter_parameters(model, asked) + self.rows * self.tokens * kept

    @property
    def agrees(self) -> bool:
        """Whether ours is within 10 %, or fits where it ran and does not where it did not."""
        if self.published:
            return abs(self.ours / self.published - 1) <= 0.1
        return (self.ours <= abs(self.card)) == (self.card > 0)


FIGURES = (
    Figure(PAPER, "LLaMA-65B", rank=64, card=48 * GIB),
    *(
        Figure(H2O, model, rows=2, tokens=512, rank=4, card=card * GIB)
        for model, card in (
            ("Llama-2-7B", 24), ("Llama-2-13B", 24), ("Llama-2-70B", -24), ("Llama-2-70B", 80),
        )
    ),
    Figure(WIKI, "Llama-2-7B", rows=4, tokens=1024, rank=8, published=9 * GB),
    *(
        Figure(WIKI, "Llama-2-7B", tokens=tokens, rank=8, published=taken * GB)
        for tokens, taken in ((1024, 6), (2048, 7), (4096, 9), (8192, 12), (16384, 19), (32768, 32))
    ),
    Figure(TORCHTUNE, "Llama-3.1-8B", rows=2, tokens=2048, rank=8, published=7.4 * GIB),
    *(
        Figure(QWEN, model, tokens=tokens, rank=64, published=taken * GB)
        for model, by_tokens in (
            ("Qwen-7B", ((256, 11.5), (1024, 12.3), (2048, 13.9), (4096, 16.9), (8192, 23.5))),
            ("Qwen-14B", ((256, 18.7), (1024, 18.9), (2048, 19.9), (4096, 23.0), (8192, 27.9))),
            ("Qwen-72B", ((256, 61.4), (1024, 62.9), (2048, 64.1), (4096, 68.0), (8192, 75.6))),
        )
        for tokens, taken in by_tokens
    ),
    *(
        Figure(FACTORY, model, published=taken * GB)
        for model, taken in (
            ("Llama-2-7B", 6), ("Qwen2.5-14B", 12), ("LLaMA-33B", 24), ("Llama-2-70B", 48),
        )
    ),
    *(
        Figure(UNSLOTH, model, published=taken * GB)
        for model, taken in (
            ("Llama-2-7B", 5), ("Llama-3.1-8B", 6), ("Qwen2.5-14B", 8.5), ("Qwen2.5-32B", 26),
            ("Llama-3.1-70B", 41),
        )
    ),
)  # fmt: skip


@functools.cache
def shape(model: str) -> ModelShape:
    """Of a model without its weights."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "vocab_size")  # fmt: skip
    config: dict[str, Any] = dict(zip(names, SHAPES[model], strict=True))
    return _from_config(model, {**config, "model_type": "llama"}, "its configuration")


def settings(rank: int, rows: int, tokens: int) -> TrainConfig:
    """As the sources train: every linear layer, no dropout, checkpointing, moments in the GPU's memory."""
    return TrainConfig.model_validate(
        {
            "lora": {"rank": rank, "dropout": 0.0},
            "nf4": {"compute_dtype": "bfloat16"},
            "batch_size": rows,
            "max_length": tokens,
            "optimizer": "adamw",
        }
    )


def row(figure: Figure) -> Row:
    """Of the table."""
    told, ratio, theirs = None, None, None
    if figure.published:
        told, ratio = f"{figure.published / GB:.1f} GB", figure.ours / figure.published
        theirs = figure.as_they / figure.published if figure.as_they else None
    else:
        told = f"{'runs on' if figure.card > 0 else 'out of memory on'} {abs(figure.card) / GIB:.0f} GB"
    return {
        "source": figure.source.name,
        "model": figure.model,
        "rows × tokens": f"{figure.rows} × {figure.tokens:,}, rank {figure.rank}",
        "published": told,
        "ours (GB)": figure.ours / GB,
        "ours / published": ratio if figure.published else "agrees" if figure.agrees else "disagrees",
        "as they hold it": theirs,
    }


def main() -> None:
    title = "Memory of QLoRA, a limit of 10 %"
    with Report("published") as report:
        for figure in FIGURES:
            report.row(title, row(figure), behind=not figure.agrees)
        sources = dict.fromkeys(figure.source for figure in FIGURES)
        links = ", ".join(f"[{source.name}]({source.address})" for source in sources)
        report.note(title, f"Sources: {links}.")


if __name__ == "__main__":
    main()
