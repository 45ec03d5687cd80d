"""What can be said about training on which answers are preferred."""

from __future__ import annotations

from pydantic import Field

from stages.contract import StageConfig


class DpoConfig(StageConfig):
    """Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290): the chosen answer of each pair
    becomes likelier, the rejected one less, without going far from the model that it starts from. Keys that
    are not here are those of `train`. Dropout is off, and pairs are never packed."""

    start: str = Field(
        default="sft",
        min_length=1,
        description="the adapter that is trained further, whose probabilities are the reference: `sft`, this "
        "recipe's own, which is first trained on the chosen answers; `base`, a fresh one; or an adapter of "
        "the registry by its id or name, of the same base and `train.lora`",
    )
    beta: float = Field(
        default=0.1, gt=0, description="β of the paper: the higher, the nearer to the reference it stays"
    )
    epochs: float = Field(default=1.0, gt=0, description="passes over the pairs")
    max_steps: int | None = Field(default=None, ge=1, description="stop after this many optimizer steps")
    batch_size: int = Field(default=2, ge=1, description="pairs per device and step; each is two sequences")
    gradient_accumulation: int = Field(default=8, ge=1, description="steps before the optimizer moves")
    learning_rate: float = Field(default=1e-5, gt=0, description="peak, after the warm-up")


class KtoConfig(StageConfig):
    """Kahneman-Tversky optimization (Ethayarajh et al. 2024, arXiv:2402.01306): answers that somebody called
    good become likelier, those called bad less, without going far from the model that it starts from. Keys
    that are not here are those of `train`. Dropout is off, and rows are never packed."""

    start: str = Field(
        default="sft",
        min_length=1,
        description="as `train.dpo.start`; `sft` is first trained on the good answers",
    )
    beta: float = Field(
        default=0.1, gt=0, description="β of the paper: the higher, the nearer to the reference it stays"
    )
    desirable_weight: float = Field(
        default=1.0,
        gt=0,
        description="λ of good answers. The paper wants λ times the number of rows to be 1 to 4/3 times as "
        "much for the good ones as for the bad",
    )
    undesirable_weight: float = Field(default=1.0, gt=0, description="λ of bad answers")
    epochs: float = Field(default=1.0, gt=0, description="passes over the rows")
    max_steps: int | None = Field(default=None, ge=1, description="stop after this many optimizer steps")
    batch_size: int = Field(
        default=8,
        ge=2,
        description="rows per device and step, 2 at least and better 4 or more: how far the model has moved "
        "is told by the answers of a batch after each other's prompts",
    )
    gradient_accumulation: int = Field(default=2, ge=1, description="steps before the optimizer moves")
    learning_rate: float = Field(default=1e-5, gt=0, description="peak, after the warm-up")


class OrpoConfig(StageConfig):
    """Odds ratio preference optimization (Hong et al. 2024, arXiv:2403.07691): one training, of a fresh
    adapter, that learns the chosen answer of each pair and makes it likelier than the rejected one. There is
    no reference. `train.batch_size` counts pairs, each of which is two sequences."""

    weight: float = Field(default=0.1, ge=0, description="λ of the paper: how much the odds ratio counts")
