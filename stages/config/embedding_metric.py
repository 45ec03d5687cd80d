"""How near an answer is to a reference in the hidden states of the base model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stages.contract import StageConfig


class EmbeddingMetric(StageConfig):
    """Cosine of the mean last hidden states of answer and reference, as the untuned base in 16 bits has them.

    The same base embeds the answers of all models that are compared, so no tuned model judges itself.
    """

    kind: Literal["embedding"] = "embedding"
    name: str = Field(
        default="embedding",
        pattern=r"^[a-z][a-z0-9_]*$",
        description="what the score is called in reports and gates",
    )

    @property
    def scores(self) -> tuple[str, ...]:
        return (self.name,)
