"""The keys that are searched: what each takes, what it must not be, and a recipe with values put in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from flows.configuration.validation import explain
from flows.errors import InvalidRecipe
from flows.recipe import Recipe
from flows.sweep.config import Range, Values

SECTION = "train"
_UNSEARCHED = {
    "train.method": "trials of two methods have losses that cannot be compared: one sweep for each",
    "train.evaluations": "trials are compared after each of their validation losses: set it in the recipe",
    "train.dpo.start": "all trials go on from one start: set it in the recipe",
    "train.kto.start": "all trials go on from one start: set it in the recipe",
    "train.nf4": "trials are compared over one base, quantized alike: set it in the recipe",
}
"""Key, or section of keys, that is not searched, and why."""
OF_THE_LOSS = (
    "train.dpo.beta", "train.orpo.weight", "train.kto.beta", "train.kto.desirable_weight",
    "train.kto.undesirable_weight", "train.kto.batch_size",
)  # fmt: skip
"""Keys by which the validation loss itself is another: what they give cannot be told by it.

KTO takes its loss against a mean over the batch.
"""


@dataclass(frozen=True)
class Parameter:
    """One key and what is tried of it: `choices`, or numbers from `low` to `high`."""

    key: str
    kind: Literal["choice", "int", "float"]
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    @property
    def ends(self) -> tuple[Any, ...]:
        """All choices; of a range both ends."""
        if self.kind == "choice":
            return self.choices
        return tuple(int(end) if self.kind == "int" else end for end in (self.low, self.high))


def combinations(parameters: Sequence[Parameter]) -> int | None:
    """How many settings the space has; None where a range holds more numbers than can be tried."""
    sizes = [
        len(p.choices) if p.kind == "choice" else int(p.high) - int(p.low) + 1 if p.kind == "int" else None
        for p in parameters
    ]
    return None if None in sizes else math.prod(size for size in sizes if size is not None)


def parameters(search: Mapping[str, Values], recipe: Recipe) -> tuple[Parameter, ...]:
    """What is searched. Raises `InvalidRecipe`, a line for each key or value that the recipe refuses."""
    problems = [f"search: {problem}" for key in search for problem in _refusals(key, search)]
    if problems:
        raise InvalidRecipe("\n".join(problems))
    found: list[Parameter] = []
    for key, values in search.items():
        try:
            parameter = _parameter(key, values)
            for value in parameter.ends:
                with_values(recipe, {key: value})
            found.append(parameter)
        except InvalidRecipe as error:
            problems += [f"search: {line}" for line in str(error).splitlines()]
    if problems:
        raise InvalidRecipe("\n".join(dict.fromkeys(problems)))
    return tuple(found)


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with these values. Raises `InvalidRecipe` with a line for each problem, which names them."""
    tree = recipe.model_dump(mode="json")
    for key, value in values.items():
        *sections, last = key.split(".")
        part = tree
        for name in sections:
            part = part.setdefault(name, {})
            if not isinstance(part, dict):
                raise InvalidRecipe(f"{key}: {name!r} is a value, not a section")
        part[last] = value
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        tried = in_words(values)
        lines = [f"{tried}: {problem.line()}" for problem in explain(Recipe, error)]
        raise InvalidRecipe("\n".join(lines)) from None


def in_words(values: Mapping[str, Any]) -> str:
    """`train.learning_rate=0.0002 train.lora.rank=16`; numbers in four digits."""
    return " ".join(f"{key}={shown(value)}" for key, value in values.items())


def shown(value: Any) -> str:
    """One value, as tables have it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refusals(key: str, search: Mapping[str, Values]) -> Iterator[str]:
    if not key.startswith(f"{SECTION}.") or not all(key.split(".")):
        yield (
            f"{key}: only keys of {SECTION} are searched, such as train.learning_rate: trials are compared "
            "on the same rows, in the same way"
        )
    for name, why in _UNSEARCHED.items():
        if key == name or key.startswith(f"{name}."):
            yield f"{key} is not searched, because {why}"
        elif _holds(search[key], key, name):
            yield f"{key} has a value for {name}, which is not searched, because {why}"
    for other in search:
        if other.startswith(f"{key}."):
            yield f"{key} holds {other}, which is searched too; take one of them out"


def _holds(values: Values, section: str, key: str) -> bool:
    """Whether one of the values of `section` has a value for `key`."""
    if not key.startswith(f"{section}.") or isinstance(values, Range):
        return False
    return any(isinstance(value, dict) and key.removeprefix(f"{section}.") in value for value in values)


def _parameter(key: str, values: Values) -> Parameter:
    if not isinstance(values, Range):
        return Parameter(key, "choice", tuple(values))
    numbers = _numbers(key)
    if numbers is None:
        raise InvalidRecipe(f"{key} takes no range of numbers; give a list of values")
    if numbers == "int" and not (values.low.is_integer() and values.high.is_integer()):
        raise InvalidRecipe(f"{key} takes whole numbers; found {values.low:g} to {values.high:g}")
    return Parameter(key, numbers, low=values.low, high=values.high, log=values.log)


def _numbers(key: str) -> Literal["int", "float"] | None:
    """What numbers the recipe takes under a key; None where it takes none, or has no such key."""
    here: list[Any] = [Recipe]
    for part in key.split("."):
        models = [model for model in here if isinstance(model, type) and issubclass(model, BaseModel)]
        fields = [model.model_fields[part].annotation for model in models if part in model.model_fields]
        here = [member for field in fields for member in _members(field)]
    if not here:
        return "float"  # the recipe says itself that it has no such key
    return "float" if float in here else "int" if int in here else None


def _members(annotation: Any) -> Iterator[Any]:
    if isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation
