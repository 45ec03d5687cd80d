"""Several answers to each item, drawn: how many, how, and what is computed from them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from stages.config.judge_metric import JudgeMetric
from stages.config.metrics import MetricConfig
from stages.config.scores import real_scores
from stages.contract import StageConfig


class SampleConfig(StageConfig):
    """Draw several answers to each item, beside the greedy one, and compute pass@k from them."""

    answers: int = Field(ge=2, le=256, description="drawn of each item")
    pass_at: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(1,), min_length=1, description="each k: how likely one of k answers is right"
    )
    temperature: float = Field(default=0.8, gt=0, le=2, description="divides the logits")
    top_p: float = Field(
        default=0.95,
        gt=0,
        le=1,
        description="only the likeliest tokens that have this share of the probability together; 1: all",
    )

    @model_validator(mode="after")
    def _possible(self) -> SampleConfig:
        if max(self.pass_at) > self.answers:
            raise ValueError(
                f"pass@{max(self.pass_at)} needs at least as many answers, {self.answers} are drawn: raise "
                "sample.answers"
            )
        if len(set(self.pass_at)) != len(self.pass_at):
            raise ValueError(f"pass_at names a number twice: {', '.join(map(str, self.pass_at))}")
        return self


def passable(metrics: tuple[MetricConfig, ...]) -> tuple[str, ...]:
    """The scores that say of one answer whether it is right: 0 or 1, and no judge's."""
    real = real_scores(metrics)
    known = (score for m in metrics if not isinstance(m, JudgeMetric) for score in m.scores)
    return tuple(score for score in known if score not in real)


def pass_scores(sample: SampleConfig | None, metrics: tuple[MetricConfig, ...]) -> dict[str, tuple[int, str]]:
    """Score → its k and what of a drawn answer it counts: `pass@5[number]`."""
    if sample is None:
        return {}
    return {f"pass@{k}[{score}]": (k, score) for score in passable(metrics) for k in sample.pass_at}
