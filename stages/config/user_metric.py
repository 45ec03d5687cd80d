"""A metric that is the user's own Python function."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stages.contract import StageConfig


class PythonMetric(StageConfig):
    """A number that a Python function of yours gives each answer.

    The file defines `score(answer, references, messages)`, as docs/metrics.md explains.
    """

    kind: Literal["python"] = "python"
    name: str = Field(
        default="python",
        pattern=r"^[a-z][a-z0-9_]*$",
        description="what the score is called in reports and gates",
    )
    path: str = Field(description="the Python file; it counts by its digest")
    scores_are: Literal["binary", "real"] = Field(
        default="real", description="binary: each is 0 or 1, true or false; real: any numbers"
    )
    unit: str = Field(default="points", max_length=40, description="of real scores, in reports")
    seconds: float = Field(default=1.0, gt=0, le=600, description="of computing, for each item on average")

    @property
    def scores(self) -> tuple[str, ...]:
        return (self.name,)
