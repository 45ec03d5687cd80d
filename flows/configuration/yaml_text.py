"""YAML that a user wrote, as plain values: every mistake in it is one sentence, none is a stack trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from flows.errors import InvalidRecipe

LARGEST_FILE = 1 << 20
"""Bytes; the longest recipe that is shipped has 1,300."""
MOST_VALUES = 100_000
"""Values of a document, an alias counted as often as it is used: nine lines of aliases can mean 10⁹."""
DEEPEST = 64


class _StrictLoader(yaml.SafeLoader):
    """Refuses a duplicate key; plain YAML keeps the last one silently."""


def _mapping_without_duplicates(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        if not isinstance(key_node, yaml.ScalarNode):
            raise InvalidRecipe(f"{_place(key_node)}: a key is a word, found a {key_node.id}")
        key = loader.construct_object(key_node)
        if key in seen:
            raise InvalidRecipe(f"{_place(key_node)}: duplicate key {key!r}; keep one")
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


Tree = dict[str, Any]
"""A YAML mapping that nothing has checked yet."""


def read_yaml(path: Path) -> Any:
    """The document in a YAML file, as plain values. Raises `InvalidRecipe` with line and column."""
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise InvalidRecipe(f"{path} has {size:,} bytes; at most {LARGEST_FILE:,} are read")
        text = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise InvalidRecipe(f"{path} cannot be read: {error}") from None
    try:
        return parse_yaml(text)
    except InvalidRecipe as error:
        raise InvalidRecipe(f"{path}: {error}") from None


def parse_yaml(text: str) -> Any:
    """The value of a YAML document, without anything shared between its parts. Raises `InvalidRecipe`."""
    try:
        return _plain(yaml.load(text, _StrictLoader), 0, [0])
    except yaml.MarkedYAMLError as error:
        why = ", ".join(part for part in (error.context, error.problem) if part)
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        raise InvalidRecipe(f"not valid YAML: {why}{where}") from None
    except yaml.YAMLError as error:
        raise InvalidRecipe(f"not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise InvalidRecipe("not valid YAML: nested too deeply") from None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
        # PyYAML's constructors: the 30th of February, a number of 5,000 digits, `!!bool maybe`, …
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InvalidRecipe(
            f"not valid YAML: a value cannot be read ({first}); put quotes around it"
        ) from None


def _plain(value: Any, depth: int, count: list[int]) -> Any:
    """A copy in which no part is shared; refuses what is too deep or too large, endless loops with it."""
    count[0] += 1
    if count[0] > MOST_VALUES:
        raise InvalidRecipe(f"more than {MOST_VALUES:,} values, aliases counted each time they are used")
    if depth > DEEPEST:
        raise InvalidRecipe(f"nested more than {DEEPEST} levels deep, or an alias contains itself")
    if isinstance(value, dict):
        return {_whole(key): _plain(part, depth + 1, count) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part, depth + 1, count) for part in value]
    return _whole(value)


def _whole(value: Any) -> Any:
    """`value`, unless it is a text with half a character (`"\\ud800"`), which no file and no id can hold."""
    try:
        if isinstance(value, str):
            value.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(value[error.start]):x}"
        raise InvalidRecipe(
            f"a text holds a lone surrogate ({half}), half a character; write the whole one"
        ) from None
    return value


def _place(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"
