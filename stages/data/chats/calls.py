"""Calls of tools and their results, in the one form that a prepared chat has.

Read are OpenAI's fine-tuning format (`tool_calls`, role `tool` with `tool_call_id`), its older one
(`function_call`, role `function`), and ShareGPT's (turns of `function_call` and `observation`).
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from registry.artifacts import JsonObject
from stages.data.chats.offered import OFFERED, has_odd_null
from stages.data.fields import says_nothing
from stages.data.json_values import decoded, json_text
from stages.data.source_row import RowError, named, shown

OF_ROW = (*OFFERED, "parallel_tool_calls")
"""Fields of a row that say which tools there are."""
OF_CALLER = ("tool_calls", "function_call")
OF_RESULT = ("tool_call_id", "name")
_OF_CALL = ("id", "type", "index", "function", "name", "arguments")


def require_agreement(row: Mapping[str, Any], messages: Sequence[JsonObject], tools: str | None) -> None:
    """Raise `RowError` for a call of a tool that is not offered, and for parallel ones that are excluded."""
    names = {tool["function"]["name"] for tool in json.loads(tools)} if tools else None
    parallel = decoded(row.get("parallel_tool_calls"), "parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        raise RowError("wrong_type", f"parallel_tool_calls is {shown(parallel)}, expected true or false")
    for number, message in enumerate(messages, 1):
        calls = message.get("tool_calls") or ()
        if parallel is False and len(calls) > 1:
            raise RowError(
                "malformed", f"message {number} has {len(calls)} calls, and parallel_tool_calls is false"
            )
        for call in calls:
            if names is not None and (name := call["function"]["name"]) not in names:
                raise RowError("unknown_tool", f"message {number} calls {named(name)}, which is not in tools")


def calls_of(turn: Mapping[str, Any], number: int, field: str, unused: Counter[str]) -> list[JsonObject]:
    """The calls of an assistant's message: `tool_calls`, or the older `function_call`."""
    given = [name for name in OF_CALLER if not says_nothing(name, turn.get(name))]
    if len(given) > 1:
        raise RowError("unsupported_field", f"message {number} has tool_calls and function_call; keep one")
    if not given:
        return []
    value = decoded(turn[given[0]], given[0])
    return _calls(value, number, f"{field}[].{given[0]}", unused)


def calls_in_text(text: Any, number: int, field: str, unused: Counter[str]) -> list[JsonObject]:
    """The calls of a turn from `function_call`, whose text is JSON: {name, arguments}, or a list of them."""
    return _calls(decoded(text, "function_call"), number, f"{field}[]", unused)


def link(messages: Sequence[JsonObject]) -> None:
    """Give each call an id that has none, and each result the id of its call, where it is known by its place.

    Raises `RowError` for a result without a call, and for an id that is used twice.
    """
    ids = [call["id"] for message in messages for call in message.get("tool_calls", ()) if call.get("id")]
    if twice := [key for key, count in Counter(ids).items() if count > 1]:
        raise RowError("malformed", f"the id {shown(twice[0])} is that of two calls")
    waiting: dict[str, str] = {}
    made = 0
    for number, message in enumerate(messages, 1):
        if message["role"] == "assistant":
            waiting = {}
            for call in message.get("tool_calls", ()):
                if call["id"] is None:
                    made = next(n for n in itertools.count(made + 1) if _made(n) not in ids)
                    call["id"] = _made(made)
                waiting[call["id"]] = call["function"]["name"]
        elif message["role"] == "tool":
            _answer(message, waiting, number)


def _made(number: int) -> str:
    """An id of nine letters and digits, which Mistral's templates ask for."""
    return f"call{number:05d}"


def _answer(message: JsonObject, waiting: dict[str, str], number: int) -> None:
    key, name = message.get("tool_call_id"), message.get("name")
    if key is None:
        key = next((k for k, called in waiting.items() if name in (None, called)), None)
        message["tool_call_id"] = key
    if key not in waiting:
        of = f" with the id {shown(message['tool_call_id'])}" if message["tool_call_id"] else ""
        raise RowError(
            "missing_call", f"message {number} is a result, and no call{of} before it waits for one"
        )
    if name is not None and name != waiting[key]:
        raise RowError(
            "malformed",
            f"message {number} is a result of {named(name)}, its call is of {named(waiting[key])}",
        )
    del waiting[key]


def _calls(value: Any, number: int, field: str, unused: Counter[str]) -> list[JsonObject]:
    calls = list(value) if isinstance(value, list | tuple) else [value]
    if not calls:
        raise RowError("malformed", f"message {number} has an empty list of calls")
    return [_call(call, number, field, unused) for call in calls]


def _call(call: Any, number: int, field: str, unused: Counter[str]) -> JsonObject:
    if not isinstance(call, Mapping):
        raise RowError("malformed", f"message {number} has {shown(call)} where a call is expected")
    if call.get("type") not in (None, "function"):
        raise RowError("unsupported_field", f"message {number} has a call of type {shown(call['type'])}")
    function = call.get("function", call)
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name.strip():
        raise RowError("malformed", f"message {number} has a call without the name of a function")
    key = call.get("id")
    if key is not None and (not isinstance(key, str) or not key):
        raise RowError("wrong_type", f"message {number} has a call whose id is {shown(key)}, expected a text")
    others = [k for k, v in {**call, **function}.items() if k not in _OF_CALL and not says_nothing(k, v)]
    unused.update(f"{field}[].{named(other)}" for other in others)
    arguments = _arguments(function.get("arguments"), number, name)
    return {"id": key, "type": "function", "function": {"name": name, "arguments": arguments}}


def _arguments(value: Any, number: int, name: str) -> str:
    place = f"message {number}: the arguments of {named(name)}"
    if value is None or value == "":
        return "{}"
    arguments = decoded(value, place)
    if not isinstance(arguments, Mapping):
        raise RowError("malformed", f"{place} are {shown(value)}, expected a JSON object")
    if isinstance(value, Mapping) and has_odd_null(value):
        raise RowError(
            "malformed",
            f"{place} hold a null, which a table also fills in where a row has no such argument; write "
            "arguments as JSON text",
        )
    return json_text(arguments, place)
