"""The tools that a row offers, in the one form that a prepared chat has.

Read are OpenAI's `tools` and its older `functions`, also as JSON text, as ShareGPT and tables have them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from registry.artifacts import JsonObject
from stages.data.fields import says_nothing
from stages.data.json_values import decoded, json_text
from stages.data.source_row import RowError, named, shown

OFFERED = ("tools", "functions")
_MAY_BE_NULL = ("default", "const")


def offered(row: Mapping[str, Any]) -> str | None:
    """The row's tools as JSON text of a list of {type, function}; None where it offers none.

    Raises `RowError` naming what is wrong with them.
    """
    given = [name for name in OFFERED if not says_nothing(name, row.get(name))]
    if len(given) > 1:
        raise RowError("unsupported_field", "the row has tools and functions; keep one of them")
    if not given:
        return None
    tools = decoded(row[given[0]], given[0])
    if not isinstance(tools, list | tuple):
        raise RowError("wrong_type", f"{given[0]} is a {type(tools).__name__}, expected a list of functions")
    functions = [_tool(tool, number) for number, tool in enumerate(tools, 1)]
    names = Counter(tool["function"]["name"] for tool in functions)
    if twice := [name for name, count in names.items() if count > 1]:
        raise RowError("malformed", f"the tool {named(twice[0])} is there twice")
    return json_text([_without_filled_in(tool) for tool in functions], "tools")


def _tool(tool: Any, number: int) -> JsonObject:
    if not isinstance(tool, Mapping):
        raise RowError("malformed", f"tool {number} is {shown(tool)}, expected {{type, function}}")
    wrapped = isinstance(tool.get("function"), Mapping)
    if tool.get("type", "function") not in (None, "function") and (wrapped or "name" not in tool):
        raise RowError("unsupported_field", f"tool {number} is of type {shown(tool['type'])}, not a function")
    function = dict(tool["function"] if wrapped else {k: v for k, v in tool.items() if k != "type"})
    if not isinstance(function.get("name"), str) or not function["name"].strip():
        raise RowError("malformed", f"tool {number} has no name")
    if function.get("parameters") is not None:
        function["parameters"] = decoded(function["parameters"], f"tool {number}'s parameters")
        if not isinstance(function["parameters"], Mapping):
            raise RowError("wrong_type", f"tool {number}'s parameters are no JSON Schema")
    more = {k: v for k, v in tool.items() if k not in ("type", "function")} if wrapped else {}
    return {"type": "function", "function": function, **more}


def _without_filled_in(tool: JsonObject) -> JsonObject:
    """The tool without the nulls that a table filled in for what other rows' tools have.

    JSON Schema has null as a `default` and a `const` only; where it stands elsewhere, a table wrote them all.
    """
    return _drop_nulls(tool) if has_odd_null(tool) else tool


def has_odd_null(value: Any) -> bool:
    """Whether a null stands somewhere in it where JSON Schema has none."""
    if isinstance(value, Mapping):
        return any(
            (item is None and key not in _MAY_BE_NULL) or has_odd_null(item) for key, item in value.items()
        )
    return isinstance(value, list | tuple) and any(map(has_odd_null, value))


def _drop_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _drop_nulls(item) for key, item in value.items() if item is not None}
    return [_drop_nulls(item) for item in value] if isinstance(value, list | tuple) else value
