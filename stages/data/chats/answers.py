"""What an answer has beside its text and its calls: the reasoning before it, and whether it is learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.config.prepare import TrainOn
from stages.data.fields import REASONING, says_nothing
from stages.data.source_row import RowError, shown

OF_ANSWER = ("weight", *REASONING)


def reasoning_of(turn: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The reasoning of an assistant's message as it stands there, if there is any. Raises `RowError`."""
    given = [name for name in REASONING if not says_nothing(name, turn.get(name))]
    if len(given) > 1:
        raise RowError(
            "unsupported_field", f"message {number} has {given[0]} and {given[1]}; keep one of them"
        )
    return {"reasoning_content": turn[given[0]]} if given else {}


def weight_of(turn: Mapping[str, Any], number: int) -> dict[str, int]:
    """The weight of an assistant's message, where it has one that says something. Raises `RowError`."""
    value = turn.get("weight")
    if says_nothing("weight", value):
        return {}
    if value not in (0, "0", "0.0", "false", "False"):
        raise RowError("unsupported_field", f"message {number} has weight: {shown(value)}, expected 0 or 1")
    return {"weight": 0}


def weigh(messages: list[dict[str, Any]], train_on: TrainOn) -> None:
    """Give weight 0 to the answers that are not to be trained.

    Raises `RowError` for weights that `train_on` does not ask for, and where the last answer is not learned.
    """
    answers = [message for message in messages if message["role"] == "assistant"]
    if train_on != "weight" and any("weight" in message for message in answers):
        number = next(n for n, message in enumerate(messages, 1) if "weight" in message)
        raise RowError("unsupported_field", f"message {number} has weight: prepare.train_on is not weight")
    if "weight" in answers[-1]:
        raise RowError(
            "unsupported_field", "the last message has weight: 0, and a row ends with what is learned"
        )
    if train_on == "last":
        for message in answers[:-1]:
            message["weight"] = 0
