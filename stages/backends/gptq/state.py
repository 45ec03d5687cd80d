"""A state of nested values and tensors as JSON and a list of tensors; nothing in it is ever run as code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def taken_apart(value: Any, tensors: list[torch.Tensor]) -> Any:
    """`value` as JSON; its tensors are appended to `tensors`, each once.

    Raises `TypeError` for what is neither a plain value, a tensor, a device, a dict, a list nor a tuple.
    """
    return _taken_apart(value, tensors, {})


def _taken_apart(value: Any, tensors: list[torch.Tensor], places: dict[int, int]) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, torch.Tensor):
        if id(value) not in places:
            places[id(value)] = len(tensors)
            tensors.append(value)
        return ["tensor", places[id(value)], str(value.device)]
    if isinstance(value, torch.device):
        return ["device", str(value)]
    if type(value) is dict:
        return ["dict", [[key, _taken_apart(each, tensors, places)] for key, each in value.items()]]
    if type(value) in (list, tuple):
        return [type(value).__name__, [_taken_apart(each, tensors, places) for each in value]]
    raise TypeError(f"{type(value).__name__} cannot be kept")


def put_together(document: Any, read: Callable[[int], torch.Tensor]) -> Any:
    """What `taken_apart` made `document` of; `read(n)` is tensor number n, on the CPU."""
    seen: dict[int, torch.Tensor] = {}
    return _put_together(document, read, seen)


def _put_together(document: Any, read: Callable[[int], torch.Tensor], seen: dict[int, torch.Tensor]) -> Any:
    if not isinstance(document, list):
        return document
    kind, content = document[0], document[1]
    if kind == "tensor":
        if content not in seen:
            seen[content] = read(content).to(document[2])
        return seen[content]
    if kind == "device":
        return torch.device(content)
    if kind == "dict":
        return {key: _put_together(each, read, seen) for key, each in content}
    items = [_put_together(each, read, seen) for each in content]
    return tuple(items) if kind == "tuple" else items
