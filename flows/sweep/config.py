"""What a sweep file can say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from flows.configuration.validation import explain, validate
from flows.configuration.yaml_text import read_yaml
from flows.errors import InvalidRecipe
from stages.contract import StageConfig

MOST_TRIALS = 1000


class Range(StageConfig):
    """A number between two ends, which are among its values; whole where the key takes whole numbers."""

    low: float = Field(description="the lowest value")
    high: float = Field(description="the highest value")
    log: bool = Field(default=False, description="draw evenly among powers, as for a learning rate")

    @model_validator(mode="after")
    def _holds_something(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low is {self.low:g} and high {self.high:g}; low has to be below high")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs numbers above 0, and low is {self.low:g}")
        return self


Choices = tuple[Any, ...]
Values = Choices | Range
"""Of one key: a list of values, or a range of numbers."""


class Objective(StageConfig):
    """What trials are compared by; more is better."""

    task: str = Field(
        description="name of a task of `evaluate.tasks`, heldout, preference, labelled or perplexity"
    )
    metric: str = Field(description="a score of that task, as a gate's rule names it")


class Pruning(StageConfig):
    """Ends a training whose validation loss is worse than the median of the others at the same point."""

    after: int = Field(
        default=1, ge=1, description="validation losses that a training has before it may be ended"
    )


class SweepConfig(StageConfig):
    """One sweep: a recipe, the keys of it that are searched, and how."""

    recipe: str = Field(
        description="a recipe's file, seen from this one's folder, or the name of a shipped recipe"
    )
    search: dict[str, Any] = Field(
        min_length=1,
        description="dotted key of the recipe's `train` section → a list of values, or `{low, high, log}`",
    )
    trials: int = Field(default=20, ge=1, le=MOST_TRIALS, description="how many settings are tried")
    startup: int = Field(
        default=5,
        ge=1,
        description="trials whose values are drawn at random, and whole trials before one may be ended early",
    )
    objective: Objective | None = Field(
        default=None,
        description="default: task and metric of the gate's first rule of role improve, or of its first rule",
    )
    pruning: Pruning | None = Field(default_factory=Pruning, description="null: every trial is trained whole")
    seed: int = Field(default=0, ge=0, lt=2**32, description="of the values that are drawn")

    @field_validator("search")
    @classmethod
    def _each_has_values(cls, tree: dict[str, Any]) -> dict[str, Any]:
        problems: list[str] = []
        read = {key: _values(key, value, problems) for key, value in tree.items()}
        if problems:
            raise ValueError("\n".join(problems))
        return read

    @property
    def values(self) -> dict[str, Values]:
        """`search` as it was read: key → its values."""
        return self.search


def _values(key: str, value: Any, problems: list[str]) -> Any:
    """A list as a tuple, a mapping as a `Range`; what is wrong with it goes to `problems`."""
    if isinstance(value, Range | tuple):
        return value
    if isinstance(value, list):
        if not value:
            problems.append(f"{key}: an empty list; give the values that are to be tried")
        if any(one in value[:place] for place, one in enumerate(value)):
            problems.append(f"{key}: a value stands in its list twice; keep one")
        return tuple(value)
    if not isinstance(value, dict):
        problems.append(f"{key}: expected a list of values, or a range such as {{low: 1.0e-5, high: 1.0e-3}}")
        return value
    try:
        return Range.model_validate(value)
    except ValidationError as error:
        problems += [f"{key}: {problem.line()}" for problem in explain(Range, error)]
    return value


def read_sweep(path: Path) -> SweepConfig:
    """The sweep in a YAML file. Raises `InvalidRecipe` with every problem on a line of its own."""
    if not path.is_file():
        raise InvalidRecipe(f"no sweep file {path}; docs/sweep.md says what one holds")
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise InvalidRecipe(
            f"{path}: a sweep is a YAML mapping with recipe and search, found {type(tree).__name__}"
        )
    return validate(SweepConfig, tree, str(path))
