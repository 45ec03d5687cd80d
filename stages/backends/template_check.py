"""Whether a chat's template writes all that the chat holds, and training teaches what the assistant writes.

Found out by rendering: the chat with a mark in place of each name, argument and text. What the template
leaves out is missing from the text, whatever else stands there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from registry.artifacts import JsonObject
from stages.backends.chat import Tokenizer, assistant_spans
from stages.backends.token_offsets import Span
from stages.errors import InvalidInput
from stages.formats.messages import Message, fields, tools_of

_KINDS = {
    "tools": "the tools that a row offers",
    "calls": "tool calls",
    "results": "the results of tools",
    "reasoning": "the reasoning before an answer (reasoning_content)",
}


_READ_ONLY = "reasoning that is not learned"


class NotRendered(InvalidInput):
    """The chat template has no place for something that the data hold, in any row."""


@dataclass(frozen=True)
class LeftOut:
    """`kinds`: what the template writes nothing of; `parts`: each part of the chat that it does not write.

    `untaught`: parts that the assistant wrote and would not learn, `taught`: the reverse. `reasoning`:
    whether it leaves out how an answer that is only read was reasoned, as it does when the model is asked.
    """

    kinds: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    untaught: tuple[str, ...] = ()
    taught: tuple[str, ...] = ()
    reasoning: bool = False


@dataclass
class _Marks:
    """What each mark stands for: its kind, the part of the chat, whether the assistant learns it."""

    known: dict[str, tuple[str, str, bool]] = field(default_factory=dict)

    def new(self, kind: str, part: str, learned: bool = False) -> str:
        mark = f"zq{len(self.known)}qz"
        self.known[mark] = (kind, part, learned)
        return mark


class TemplateCheck:
    """Checks chats, each structure of a chat once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._found: dict[str, LeftOut] = {}

    def __call__(self, messages: Sequence[Message]) -> LeftOut:
        """What of the chat is left out. Raises `InvalidInput` where the template refuses it.

        Raises `NotRendered` where it writes none of the chat's tools, calls, results or reasoning.
        """
        marks = _Marks()
        marked = _marked(messages, marks)
        structure = json.dumps(
            [{k: v for k, v in m.items() if k not in ("tool_call_id", "name")} for m in marked]
        )
        if structure not in self._found:
            self._found[structure] = _left_out(self._tokenizer, marked, marks)
        found = self._found[structure]
        if found.kinds:
            named = " nor ".join(_KINDS[kind] for kind in found.kinds)
            raise NotRendered(
                f"the chat template of {self._tokenizer.name_or_path} does not write {named}, so a model "
                "would be trained as if the data had none; give a template that does in the recipe: "
                "base.chat_template: PATH_OF_A_JINJA_FILE, or leave them out of the data"
            )
        return found


def _left_out(tokenizer: Tokenizer, marked: Sequence[Message], marks: _Marks) -> LeftOut:
    text, spans = assistant_spans(tokenizer, marked)
    text = text.lower()  # some templates write contents in capitals
    missing = {mark for mark in marks.known if mark not in text}
    kinds = [
        kind
        for kind in _KINDS
        if (of_kind := {mark for mark, known in marks.known.items() if known[0] == kind})
        and of_kind <= missing
    ]
    wrong: dict[bool, list[str]] = {True: [], False: []}
    for mark, (_, part, learned) in marks.known.items():
        if mark not in missing and learned != _inside(text, mark, spans):
            wrong[learned].append(part)
    left = [known for mark, known in marks.known.items() if mark in missing]
    return LeftOut(
        tuple(kinds),
        tuple(dict.fromkeys(part for kind, part, _ in left if kind != _READ_ONLY)),
        tuple(dict.fromkeys(wrong[True])),
        tuple(dict.fromkeys(wrong[False])),
        any(kind == _READ_ONLY for kind, _, _ in left),
    )


def _inside(text: str, mark: str, spans: Sequence[Span]) -> bool:
    at = text.index(mark)
    return any(start <= at < end for start, end in spans)


def _marked(messages: Sequence[Message], marks: _Marks) -> list[dict[str, Any]]:
    tools = [_marked_tool(tool, number, marks) for number, tool in enumerate(tools_of(messages) or [], 1)]
    chat = []
    for number, message in enumerate(messages, 1):
        place, learned = f"message {number}", message["role"] == "assistant" and message.get("weight") != 0
        marked = fields(message)
        if str(message["content"]).strip():
            kind = "results" if message["role"] == "tool" else "content"
            marked["content"] = marks.new(kind, f"the content of {place} ({message['role']})", learned)
        if "reasoning_content" in marked:
            kind = "reasoning" if learned else _READ_ONLY
            marked["reasoning_content"] = marks.new(kind, f"the reasoning_content of {place}", learned)
        if "tool_calls" in marked:
            marked["tool_calls"] = [
                _marked_call(call, f"tool call {k} of {place}", learned, marks)
                for k, call in enumerate(marked["tool_calls"], 1)
            ]
        chat.append(marked)
    if tools:
        chat[0]["tools"] = json.dumps(tools)
    return chat


def _marked_call(call: JsonObject, place: str, learned: bool, marks: _Marks) -> JsonObject:
    function = {"name": marks.new("calls", f"{place}'s name", learned), "arguments": "{}"}
    if json.loads(call["function"]["arguments"]):
        name, value = (marks.new("calls", f"{place}'s arguments", learned) for _ in range(2))
        function["arguments"] = json.dumps({name: value})
    return {**call, "function": function}


def _marked_tool(tool: JsonObject, number: int, marks: _Marks) -> JsonObject:
    """A tool of the same structure: description, and one parameter with what any of the tool's has."""
    function = dict(tool["function"])
    function["name"] = marks.new("tools", f"tool {number}'s name")
    if str(function.get("description") or "").strip():
        function["description"] = marks.new("tools", f"tool {number}'s description")
    schemas = list(_parameters(function))
    if schemas:
        parameter: JsonObject = {"type": "string"}
        if any(schema.get("description") for schema in schemas):
            parameter["description"] = marks.new("tools", f"the descriptions of tool {number}'s parameters")
        if any(schema.get("enum") for schema in schemas):
            parameter["enum"] = [marks.new("tools", f"the enum of tool {number}'s parameters")]
        name = marks.new("tools", f"tool {number}'s parameters")
        function["parameters"] = {"type": "object", "properties": {name: parameter}, "required": [name]}
    return {**tool, "function": function}


def _parameters(function: JsonObject) -> Iterator[JsonObject]:
    properties = (function.get("parameters") or {}).get("properties")
    for schema in properties.values() if isinstance(properties, dict) else ():
        yield schema if isinstance(schema, dict) else {}
