"""Calls of tools in an answer's text, against those that are expected.

Read are the forms that chat templates write: `<tool_call>{…}</tool_call>` (Hermes, Qwen, SmolLM3), JSON with
`parameters` (Llama 3), a list after `[TOOL_CALLS]` (Mistral), `name[ARGS]{…}` (Mistral since 2025), and JSON
with `name` and `arguments`, bare or as in OpenAI's API. Special tokens may be left out, as an engine does.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from stages.config.metrics import FIGURES, ToolCallMetric
from stages.formats.messages import Message
from stages.scoring.fields import Same, matched, sameness, values
from stages.scoring.item import CorpusMetric, ItemScore, ReadyMetric

_OPENED, _CLOSED = "<tool_call>", "</tool_call>"
_BETWEEN = re.compile(r"(?:[\s;,]|<\|python_tag\|>|\[TOOL_CALLS\])*")
_NAMED = re.compile(r"([\w.-]{1,256})(?:\[CALL_ID\][\w-]*)?\[ARGS\]")
_ARGUMENTS = ("arguments", "parameters")
_DECODER = json.JSONDecoder()
_LOST = "\N{REPLACEMENT CHARACTER}"
"""Name of a call that cannot be read."""


class Call(NamedTuple):
    name: str
    arguments: Mapping[str, Any]


def as_text(message: Message) -> str:
    """The message as text that `calls_in` reads: its content, and each call between tags."""
    calls = message.get("tool_calls") or ()
    parts = [str(message["content"] or "")]
    for call in calls:
        function = call["function"]
        arguments = json.loads(function["arguments"])
        whole = json.dumps({"name": function["name"], "arguments": arguments}, ensure_ascii=False)
        parts.append(f"<tool_call>{whole}</tool_call>")
    return "\n".join(part for part in parts if part)


def calls_in(text: str) -> list[Call]:
    """The calls of an answer, in their order; what stands between tags and is no call has no known name.

    Without tags the answer has calls only where it is nothing but calls, reasoning before them aside.
    """
    if _OPENED in text:
        return list(_tagged(text))
    return _documents(text.rpartition("</think>")[2]) or []


def tool_call(metric: ToolCallMetric) -> ReadyMetric:
    """Whether the calls are right: all of them, their names, and how many of their arguments.

    The calls of one answer are parallel, so their order does not count.
    """
    same = sameness(metric.text, metric.tolerance)
    arguments = f"{metric.name}_arguments"

    def score(answer: str, references: Sequence[str]) -> ItemScore:
        found = calls_in(answer)
        options = [_against(calls_in(reference), found, same) for reference in references]
        right, named, counts = max(options, key=lambda option: (option[0], option[1], option[2][0]))
        scores = {metric.name: float(right), f"{metric.name}_name": float(named)}
        return ItemScore(scores, {arguments: tuple(map(float, counts))})

    corpus = {f"{arguments}_{figure}": CorpusMetric(figure, arguments) for figure in FIGURES}
    units = dict.fromkeys((metric.name, f"{metric.name}_name", *corpus), "share")
    return ReadyMetric(score, units, corpus)


def _against(
    expected: Sequence[Call], found: Sequence[Call], same: Same
) -> tuple[bool, bool, tuple[int, int, int]]:
    """Whether all is right, whether the names are, and arguments' values: matched, predicted, expected."""
    named = Counter(call.name for call in expected) == Counter(call.name for call in found)
    arguments_right = named and _all_equal(expected, found, same)
    right = sum(
        _matched([c for c in expected if c.name == name], [c for c in found if c.name == name], same)
        for name in {call.name for call in expected}
    )
    there, wanted = (sum(values(call.arguments).total() for call in calls) for calls in (found, expected))
    return arguments_right, named, (right, there, wanted)


def _all_equal(expected: Sequence[Call], found: Sequence[Call], same: Same) -> bool:
    """Whether each expected call has one that is equal to it, lists in their order."""
    left = list(found)
    for call in expected:
        equal = (i for i, other in enumerate(left) if _equal(call, other, same))
        if (place := next(equal, None)) is None:
            return False
        del left[place]
    return not left


def _equal(one: Any, other: Any, same: Same) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key], same) for key in one)
    if isinstance(one, list | Call) and isinstance(other, list | Call):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(_equal(a, b, same) for a, b in pairs)
    return not any(isinstance(side, Mapping | list) for side in (one, other)) and same(one, other)


def _matched(expected: Sequence[Call], found: Sequence[Call], same: Same) -> int:
    """Values that agree between calls of one name, paired so that most do."""
    ours, theirs = ([call.arguments for call in calls] for calls in (expected, found))
    return matched(ours, theirs, same).total() if theirs else 0


def _tagged(text: str) -> Iterator[Call]:
    """The calls between tags; a tag within a call's arguments is a text like any other."""
    at = text.find(_OPENED)
    while at >= 0:
        at += len(_OPENED)
        try:
            value, end = _DECODER.raw_decode(text, _end(_BETWEEN, text, at))
            yield from [_call(part) for part in (value if isinstance(value, list) else [value])]
            at = end
        except (ValueError, RecursionError):
            yield Call(_LOST, {})
        at = text.find(_OPENED, at)


def _documents(text: str) -> list[Call] | None:
    """The calls of a text that is nothing but calls; None of any other."""
    calls: list[Call] = []
    try:
        for value in _values(text):
            for part in value if isinstance(value, list) else [value]:
                calls.append(_call(part))
            if len(calls) > 1000:
                return None
    except (ValueError, RecursionError):
        return None
    return calls


def _values(text: str) -> Iterator[Any]:
    """The JSON documents of a text, one after the other. ValueError for anything else in it."""
    at = _end(_BETWEEN, text, 0)
    while at < len(text):
        named = _NAMED.match(text, at)
        value, at = _DECODER.raw_decode(text, named.end() if named else at)
        yield {"name": named[1], "arguments": value} if named else value
        at = _end(_BETWEEN, text, at)


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


def _call(value: Any) -> Call:
    """ValueError for what is no call."""
    if not isinstance(value, Mapping):
        raise ValueError("no call")
    function = value["function"] if isinstance(value.get("function"), Mapping) else value
    name = function.get("name")
    given = [key for key in _ARGUMENTS if key in function]
    arguments = function[given[0]] if given else None
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        raise ValueError("no call")
    values(arguments)  # nested too deeply: RecursionError
    return Call(name, arguments)
