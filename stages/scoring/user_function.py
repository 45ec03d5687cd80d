"""A user's own Python function that scores an answer, in a child process with limits of its own.

The file defines `score(answer, references, messages)`: the answer's text, the list of expected answers, and
the chat before it as a list of {role, content}. It returns a number, or true or false. The child has limits
of time and memory; it is not kept from files or the network: whoever names the file trusts it.
"""

from __future__ import annotations

import math
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stages.config.user_metric import PythonMetric
from stages.errors import InvalidInput
from stages.untrusted.sandbox import SandboxLimits, in_sandbox

FUNCTION = "score"
STARTING = 20
"""Seconds that the file's own imports may take."""


_ADVICE = "make the function quicker, or give it more time: the metric's `seconds`"


class Answered(NamedTuple):
    """What the function gets of one item."""

    answer: str
    references: Sequence[str]
    messages: Sequence[Mapping[str, Any]]


def user_scores(metric: PythonMetric, items: Sequence[Answered]) -> list[float]:
    """What the metric's function says of each item.

    Raises `InvalidInput` where the file is not there or has no such function, and where the function fails,
    takes too long, or returns something else than a finite number (0 or 1 where the metric is binary).
    """
    file = Path(metric.path).expanduser()
    if not file.is_file():
        raise InvalidInput(
            f"metric {metric.name}: {metric.path} is not a file; give the path of a Python file"
        )
    seconds = STARTING + math.ceil(metric.seconds * len(items))
    argument = {
        "path": str(file.resolve()),
        "items": [item._asdict() for item in items],
        "binary": metric.scores_are == "binary",
    }
    limits = SandboxLimits(cpu_seconds=seconds, wall_seconds=2.0 * seconds)
    try:
        found = in_sandbox("stages.scoring.user_function:score_all", argument, file.name, limits, _ADVICE)
    except InvalidInput as error:
        raise InvalidInput(f"metric {metric.name}: {error}") from None
    return [float(score) for score in found]


def score_all(path: str, items: Sequence[Mapping[str, Any]], binary: bool) -> list[float]:
    """In the child: the function's score of each item. Raises `InvalidInput` naming file, item and reason."""
    name = Path(path).name
    try:
        function = runpy.run_path(path).get(FUNCTION)
    except Exception as error:  # a user's file may raise anything
        raise InvalidInput(f"{name} cannot be loaded: {_words(error)}") from None
    if not callable(function):
        raise InvalidInput(f"{name} defines no function {FUNCTION}(answer, references, messages)")
    return [_checked(name, number, function, item, binary) for number, item in enumerate(items)]


def _checked(name: str, number: int, function: Any, item: Mapping[str, Any], binary: bool) -> float:
    try:
        score = function(item["answer"], list(item["references"]), list(item["messages"]))
    except Exception as error:  # the same
        raise InvalidInput(f"{name}, item {number}: {FUNCTION} failed: {_words(error)}") from None
    if not isinstance(score, bool | int | float) or not math.isfinite(score):
        raise InvalidInput(f"{name}, item {number}: {FUNCTION} returned {score!r}, expected a number")
    if binary and score not in (0, 1):
        raise InvalidInput(
            f"{name}, item {number}: {FUNCTION} returned {score!r}, expected 0 or 1; set scores_are: real if "
            "that is right"
        )
    return float(score)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"
