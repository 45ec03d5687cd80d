"""The functions that an answer may call: `tools` and `tool_choice`, read within bounds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from serving.openai_api.errors import ApiError
from serving.openai_api.fields import Fields, JsonObject, refuse
from serving.openai_api.response_format import require_bounded

MOST_TOOLS = 64
FUNCTION_FIELDS = frozenset({"name", "description", "parameters", "strict"})
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclass(frozen=True)
class Tools:
    """What may be called, and whether it has to be."""

    offered: tuple[JsonObject, ...]
    """Of {type, function}, as they were sent."""
    named: str | None = None
    """The only one that may be called, and has to be."""
    required: bool = False
    parallel: bool = True
    """Whether one answer may call several."""

    def body(self) -> JsonObject:
        """The fields of a request that say it."""
        function = {"type": "function", "function": {"name": self.named}}
        choice: Any = function if self.named is not None else "required" if self.required else "auto"
        return {
            "tools": list(self.offered),
            "tool_choice": choice,
            "parallel_tool_calls": self.parallel,
        }

    def callable(self) -> tuple[JsonObject, ...]:
        """The functions that the answer may call."""
        functions = tuple(tool["function"] for tool in self.offered)
        return tuple(f for f in functions if self.named in (None, f["name"]))


def read_tools(given: JsonObject, fields: Fields) -> Tools | None:
    """What `fields` offers; None where nothing may be called. Raises `ApiError`.

    `given`: the request as it was sent, where `tool_choice` stands also when it says what holds anyway.
    """
    offered, choice = fields.take("tools"), given.get("tool_choice")
    for name in ("tool_choice", "parallel_tool_calls"):
        fields.take(name)
    if offered is None:
        if choice not in (None, "none", "auto"):
            refuse("tool_choice", "tools to choose from beside it", choice)
        return None
    if not isinstance(offered, list) or not 0 < len(offered) <= MOST_TOOLS:
        refuse("tools", f"a list of up to {MOST_TOOLS} functions", offered)
    names = [_name_of(tool, f"tools[{index}]") for index, tool in enumerate(offered)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ApiError(f"tools: {twice[0]!r} is there twice", "tools")
    require_bounded(offered, "tools")
    if choice == "none":
        return None
    parallel = given.get("parallel_tool_calls")
    if not isinstance(parallel, bool | None):
        refuse("parallel_tool_calls", "true or false", parallel)
    return Tools(tuple(offered), _chosen(choice, names), choice == "required", parallel is not False)


def _name_of(tool: Any, where: str) -> str:
    if not isinstance(tool, dict) or tool.get("type") != "function" or len(tool) > 2:
        refuse(where, "{type: function, function: {name, description, parameters}}", tool)
    return function_name(tool.get("function"), f"{where}.function")


def function_name(function: Any, where: str) -> str:
    """The name of a function that is offered, once what stands at `where` is one. Raises `ApiError`."""
    if not isinstance(function, dict) or function.keys() - FUNCTION_FIELDS:
        refuse(where, "an object with name, description, parameters and strict", function)
    name, description = function.get("name"), function.get("description")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        refuse(f"{where}.name", "1 to 64 letters, digits, _ or -", name)
    if not isinstance(description, str | None):
        refuse(f"{where}.description", "a text", description)
    if not isinstance(function.get("parameters"), dict | None):
        refuse(f"{where}.parameters", "a JSON schema, which is an object", function["parameters"])
    return name


def _chosen(choice: Any, names: list[str]) -> str | None:
    named = [name for name in names if choice == {"type": "function", "function": {"name": name}}]
    if not named and choice not in (None, "auto", "required"):
        expected = "none, auto, required, or {type: function, function: {name}} of one that is offered"
        refuse("tool_choice", expected, choice)
    return next(iter(named), None)
