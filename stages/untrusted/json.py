"""Untrusted JSON files: bounded in size and depth, no key twice, no NaN, no code to be fetched."""

from __future__ import annotations

import json
from collections.abc import Iterable
from math import isinf
from pathlib import Path
from typing import Any, NoReturn

from stages.errors import InvalidInput

MEGABYTE = 1_000_000
DEEPEST = 64
CODE_KEYS = ("auto_map", "custom_pipelines", "trust_remote_code")
"""What asks transformers to import Python from the model's repository."""


JsonObject = dict[str, Any]
"""Whatever a file of somebody else's says, until it is checked."""


def read_object(file: Path, largest: int) -> JsonObject:
    """The JSON object in `file`, of at most `largest` bytes. Raises `InvalidInput` naming what is wrong."""
    size = file.stat().st_size
    if size > largest:
        raise InvalidInput(
            f"{file.name} has {size / MEGABYTE:.0f} MB, expected at most {largest / MEGABYTE:.0f} MB; "
            "no model needs that much: fetch it anew from a source you trust"
        )
    return parse_object(file.read_bytes(), file.name)


def parse_object(raw: bytes, name: str) -> JsonObject:
    """Like `read_object`, for bytes; `name` is for messages."""
    try:
        tree = json.loads(
            raw, object_pairs_hook=_without_repeats, parse_constant=_no_constant, parse_float=_finite
        )
    except (ValueError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{name} is not valid JSON ({error}); fetch it again") from None
    except RecursionError:
        raise InvalidInput(_too_deep(name)) from None
    if not isinstance(tree, dict):
        raise InvalidInput(f"{name} holds a {type(tree).__name__}, expected a JSON object")
    _check_depth(tree, name)
    return tree


def refuse_code(config: JsonObject, name: str) -> None:
    """Raise `InvalidInput` where a configuration asks for Python code of its own."""
    asked = [key for key in CODE_KEYS if config.get(key)]
    if asked:
        raise InvalidInput(
            f"{name} asks for Python code of its own ({', '.join(asked)}), which is never run here; "
            "use a model whose architecture and tokenizer transformers has built in"
        )


def _without_repeats(pairs: Iterable[tuple[str, Any]]) -> JsonObject:
    values: JsonObject = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"duplicate key {key[:60]!r}")
        values[key] = value
    return values


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number in JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if isinf(number):
        raise ValueError(f"{digits[:60]} is larger than any number here can be")
    return number


def _check_depth(tree: Any, name: str) -> None:
    level, depth = [tree], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise InvalidInput(_too_deep(name))
        containers = [node for node in level if isinstance(node, dict | list)]
        level = [
            child
            for node in containers
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]


def _too_deep(name: str) -> str:
    return f"{name} is nested more than {DEEPEST} levels deep; expected a file as a model's library writes it"
