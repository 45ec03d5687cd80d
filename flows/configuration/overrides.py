"""`--set KEY.PATH=VALUE`: one key of a configuration, changed for one command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flows.configuration.yaml_text import Tree, parse_yaml
from flows.errors import InvalidRecipe
from flows.formatting import plain

Path = tuple[str | int, ...]
_LONGEST = 120
"""Characters of an override that a message repeats."""


@dataclass(frozen=True)
class Override:
    """One `--set`: as it was written, and what it means."""

    text: str
    keys: tuple[str, ...]
    value: Any

    @property
    def path(self) -> Path:
        """Its keys as they are counted in a tree: an index of a list is a number."""
        return tuple(int(key) if _is_index(key) else key for key in self.keys)

    @property
    def shown(self) -> str:
        """As it could be typed in a shell, where it is not too long."""
        return _shown(self.text)


def parse_override(text: str) -> Override:
    """`a.b.0.c=value`; the value is YAML. Raises `InvalidRecipe`."""
    path, separator, value = text.partition("=")
    keys = tuple(path.strip().split("."))
    if not separator or not all(keys):
        raise InvalidRecipe(f"--set {shlex.quote(text)}: expected KEY.PATH=VALUE, for example train.epochs=2")
    try:
        return Override(text, keys, parse_yaml(value))
    except InvalidRecipe as error:
        quoted = _shown(f"{path}={json.dumps(value, ensure_ascii=False)}")
        raise InvalidRecipe(f"{_shown(text)}: {error}; if a text is meant: {quoted}") from None


def parse_overrides(texts: Iterable[str]) -> list[Override]:
    """Every override, in order. Raises `InvalidRecipe` for the first that cannot be read."""
    return [parse_override(text) for text in texts]


def apply_overrides(tree: Tree, overrides: Sequence[Override]) -> None:
    """Set each override's value in `tree`, the last one of a key counts. Raises `InvalidRecipe`."""
    for override in overrides:
        _apply(tree, override)


def _apply(tree: Tree, override: Override) -> None:
    node: Any = tree
    *parents, last = override.keys
    for number, key in enumerate(parents):
        if isinstance(node, list):
            node = node[_index(node, key, override)]
        else:
            if node.get(key) is None:
                if _is_index(override.keys[number + 1]):
                    raise InvalidRecipe(
                        f"{override.shown}: there is no list {'.'.join(parents[: number + 1])!r} to take an "
                        "entry of; set the whole list"
                    )
                node[key] = {}
            node = node[key]
        if not isinstance(node, dict | list):
            raise InvalidRecipe(f"{override.shown}: {key!r} is a value, not a section")
    if isinstance(node, list):
        node[_index(node, last, override)] = override.value
    else:
        node[last] = override.value


def _index(node: list[Any], key: str, override: Override) -> int:
    if not _is_index(key) or int(key) >= len(node):
        count = f"{len(node)} {'entry' if len(node) == 1 else 'entries'}"
        raise InvalidRecipe(f"{override.shown}: {key!r} is not an index of a list of {count} (from 0)")
    return int(key)


def _shown(text: str) -> str:
    text = " ".join(plain(text).split("\n"))
    return f"--set {shlex.quote(text if len(text) <= _LONGEST else text[:_LONGEST] + '…')}"


def _is_index(key: str) -> bool:
    return key.isascii() and key.isdecimal() and len(key) < 10
