"""A tree of plain values as a config class, or every problem in it: one line each, at the key that has it."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from flows.configuration.overrides import Override, Path, apply_overrides
from flows.errors import InvalidRecipe

M = TypeVar("M", bound=BaseModel)
_TAGS = ("method", "kind")
_LONGEST = 80
"""Characters of a value that are shown."""
_IN_OUR_WORDS = {
    "model_type": "expected a section with keys",
    "model_attributes_type": "expected a section with keys",
    "dict_type": "expected a section with keys",
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "string_type": "expected a text",
    "missing": "this key is required",
    "invalid_key": "a key is a word",
    "recursion_loop": "contains itself",
}


@dataclass(frozen=True)
class ConfigProblem:
    """What is wrong at `path`; an empty path is the whole."""

    path: Path
    words: str

    def line(self, below: Path = ()) -> str:
        """For people; `below` is left out of the path."""
        shown = self.path[len(below) :] if self.path[: len(below)] == below else self.path
        return f"{'.'.join(map(str, shown))}: {self.words}" if shown else self.words


def validate(
    model: type[M],
    tree: Any,
    where: str,
    overrides: Sequence[Override] = (),
    before: Any = None,
    below: Path = (),
) -> M:
    """`tree` as a `model`. Raises `InvalidRecipe` with every problem on a line of its own.

    `before` is the tree without the `overrides`: what is wrong only with them is said to be theirs. Their
    keys count from `below`.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        problems = explain(model, error)
    before_problems = set(_problems(model, before, ())) if overrides and before is not None else set()
    ours, theirs = list[str](), list[str]()
    for problem in problems:
        culprits = [] if problem in before_problems else _culprits(problem, overrides, below)
        if len(culprits) > 1:
            needed = [
                override
                for override in culprits
                if problem not in _problems(model, before, overrides, override, below)
            ]
            culprits = needed or culprits
        if culprits:
            ours.append(f"{' '.join(override.shown for override in culprits)}: {problem.line(below)}")
        else:
            theirs.append(f"  {problem.line(below)}")
    lines = [*([f"{where}:", *theirs] if theirs else []), *ours]
    raise InvalidRecipe("\n".join(lines)) from None


def _problems(
    model: type[BaseModel],
    before: Any,
    overrides: Sequence[Override],
    without: Override | None = None,
    below: Path = (),
) -> list[ConfigProblem]:
    """Everything that keeps `before`, changed by the other overrides, from being a `model`."""
    tree = copy.deepcopy(before)
    apply_overrides(_inside(tree, below), [override for override in overrides if override is not without])
    try:
        model.model_validate(tree)
    except ValidationError as error:
        return explain(model, error)
    return []


def _inside(tree: Any, below: Path) -> Any:
    for key in below:
        tree = tree[key]
    return tree


def explain(model: type[BaseModel], error: ValidationError) -> list[ConfigProblem]:
    """One problem per key: of a union only what is wrong with the variant that was meant."""
    placed = [(_place(model, details), details) for details in error.errors(include_url=False)]
    meant = {
        (*place.path[:-1], _nearest(place)) for place, item in placed if item["type"] == "extra_forbidden"
    }
    problems: list[ConfigProblem] = []
    for place, details in placed:
        below = any(
            other.path[: len(place.path)] == place.path for other, item in placed if item is not details
        )
        if details["type"] == "too_short" and below:
            continue  # its entries were not counted because something is wrong with them
        if details["type"] == "missing" and place.path in meant:
            continue  # it is there, misspelt
        if place.union is None:
            problems += _worded(place, details)
            continue
        rivals = [other for other in placed if other[0].union == place.union]
        deepest = max(len(other[0].path) for other in rivals)
        if deepest == len(place.union):
            messages = [_IN_OUR_WORDS.get(other["type"], other["msg"]) for _, other in rivals]
            words = " or ".join(dict.fromkeys(item.removeprefix("expected ") for item in messages))
            problems.append(ConfigProblem(place.path, f"expected {words}{_found(details)}"))
        elif len(place.path) == deepest:
            problems += _worded(place, details)
    return list(dict.fromkeys(problems))


def _culprits(problem: ConfigProblem, overrides: Sequence[Override], below: Path) -> list[Override]:
    """The overrides that a problem may come from: what set this very value, or changed what it is about."""
    paths = [((*below, *override.path), override) for override in overrides]
    setting = [override for path, override in paths if problem.path[: len(path)] == path]
    about = [override for path, override in paths if path[: len(problem.path)] == problem.path]
    return setting[-1:] or about


@dataclass(frozen=True)
class _Place:
    """Where a problem is: its keys and indices, without pydantic's names of union members."""

    path: Path
    parents: tuple[type[BaseModel], ...]
    """Classes of the section that holds the last key."""
    union: Path | None = None
    """Path of the value whose variants cannot be told apart by a tag."""


def _place(model: type[BaseModel], details: ErrorDetails) -> _Place:
    here: list[Any] = [model]
    parents: list[Any] = [model]
    path: list[str | int] = []
    union: Path | None = None
    location = details["loc"]
    for number, part in enumerate(location):
        models = [annotation for annotation in here if _is_model(annotation)]
        fields = [
            annotation.model_fields[part].annotation
            for annotation in models
            if part in annotation.model_fields
        ]
        last = number == len(location) - 1
        if fields:
            path, parents, here = [*path, part], models, [a for field in fields for a in _alternatives(field)]
        elif isinstance(part, int):
            path, here = [*path, part], [a for annotation in here for a in _entries(annotation)]
        elif last and details["type"] in {"extra_forbidden", "invalid_key"}:
            path, parents = [*path, part], models
        elif tagged := [annotation for annotation in models if part in _tags(annotation)]:
            here = tagged
        else:
            union = union if union is not None else tuple(path)
            here = [annotation for annotation in models if annotation.__name__ == part] or here
    inside = [annotation for annotation in here if _is_model(annotation)]
    owners = parents if details["type"] == "extra_forbidden" else inside or parents
    return _Place(tuple(path), tuple(owners), union)


def _worded(place: _Place, details: ErrorDetails) -> Iterator[ConfigProblem]:
    kind, context = details["type"], details.get("ctx", {})
    if kind == "extra_forbidden":
        yield ConfigProblem(place.path, _unknown_key(place))
    elif kind in {"union_tag_invalid", "union_tag_not_found"}:
        yield ConfigProblem(*_untagged(place, details))
    elif kind == "value_error":
        # what a validator of ours says, a problem per line
        for line in str(context.get("error", details["msg"])).splitlines():
            yield ConfigProblem(place.path, f"{line}{_found(details)}")
    elif kind == "too_short":
        yield ConfigProblem(
            place.path, f"expected at least {context['min_length']} of them, found {context['actual_length']}"
        )
    else:
        yield ConfigProblem(place.path, f"{_IN_OUR_WORDS.get(kind, details['msg'])}{_found(details)}")


def _found(details: ErrorDetails) -> str:
    value = details.get("input")
    ours = details["type"] == "value_error"
    if details["type"] == "missing" or isinstance(value, BaseModel):
        return ""
    if isinstance(value, Mapping | list | tuple):
        return "" if ours else f" (found {'a section' if isinstance(value, Mapping) else 'a list'})"
    if ours and isinstance(value, str) and value in details["msg"]:
        return ""
    try:
        text = str(value) if value.__class__.__module__ == "datetime" else repr(value)
    except ValueError:  # a whole number of more than 4,300 digits
        text = "a very long number"
    return f" (found {text if len(text) <= _LONGEST else text[:_LONGEST] + '…'})"


def _unknown_key(place: _Place) -> str:
    last = str(place.path[-1])
    if last == "trust_remote_code":
        return "Tuneline never runs code that comes with a model; remove the key"
    near = _nearest(place)
    hint = f"did you mean {near!r}? " if near else ""
    return f"unknown key; {hint}valid keys here: {', '.join(_keys(place))}"


def _keys(place: _Place) -> list[str]:
    return sorted({key for model in place.parents for key in model.model_fields})


def _nearest(place: _Place) -> str | None:
    return next(iter(difflib.get_close_matches(str(place.path[-1]), _keys(place), n=1, cutoff=0.5)), None)


def _untagged(place: _Place, details: ErrorDetails) -> tuple[Path, str]:
    """Of a section whose `kind` or `method` is not there, or is none of the known ones."""
    tags = [tag for model in place.parents for tag in _tags(model)]
    key = next((name for name in _TAGS for model in place.parents if name in model.model_fields), "kind")
    expected, value = f"expected one of {', '.join(map(str, tags))}", details.get("input")
    if not isinstance(value, Mapping):
        return place.path, f"expected a section with the key {key!r}{_found(details)}"
    if key not in value:
        return (*place.path, key), f"this key is required; {expected}"
    near = difflib.get_close_matches(str(value[key]), map(str, tags), n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return (*place.path, key), f"{str(value[key])[:_LONGEST]!r} is not known; {hint}{expected}"


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The members of a union, through `Annotated`; else the annotation itself."""
    arguments = get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        yield from _alternatives(arguments[0])
    elif isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        for argument in arguments:
            yield from _alternatives(argument)
    else:
        yield annotation


def _entries(annotation: Any) -> Iterator[Any]:
    """What a list or tuple holds."""
    for argument in get_args(annotation):
        if argument is not Ellipsis:
            yield from _alternatives(argument)


def _tags(model: Any) -> tuple[Any, ...]:
    return tuple(
        tag
        for name in _TAGS
        if name in model.model_fields
        for tag in get_args(model.model_fields[name].annotation)
    )
