"""The input of a request for a response, item by item, as the messages of a chat."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from serving.openai_api.errors import ApiError
from serving.openai_api.fields import JsonObject, refuse, says_nothing
from serving.openai_api.messages import (
    LONGEST_ID,
    NO_CALLS,
    Message,
    read_arguments,
    read_content,
    read_text,
)

ROLES = ("user", "assistant", "system", "developer")
_KINDS = ("message", "function_call", "function_call_output", "reasoning")
_TEXTS = ("input_text", "output_text", "text")
_MARKS = frozenset({"type", "id", "status"})
"""What items have that were an answer; they are sent back as they came."""


def read_input(value: Any, most: int, lacking: Collection[str]) -> list[Message]:
    """The messages that a text or a list of up to `most` items stands for.

    An assistant's thought, text and calls that follow each other are one message. `lacking`: `tools`
    where calls of functions and their results are not done. Raises `ApiError`.
    """
    if isinstance(value, str) and value:
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not 0 < len(value) <= most:
        refuse("input", f"a text that is not empty, or a list of 1 to {most} items", value)
    chat = _Chat(lacking)
    for index, item in enumerate(value):
        chat.add(item, f"input[{index}]")
    if not chat.messages:
        refuse("input", "an item that says something", value)
    return chat.messages


class _Chat:
    """Messages so far; the last one may go on."""

    def __init__(self, lacking: Collection[str]) -> None:
        self.messages: list[Message] = []
        self._lacking = lacking
        self._open = False
        """Whether the last message is an assistant's, to which calls may be added."""

    def add(self, item: Any, where: str) -> None:
        """Take one item. Raises `ApiError`."""
        if not isinstance(item, dict):
            refuse(where, f"an object whose type is one of {', '.join(_KINDS)}", item)
        kind = item.get("type") or "message"
        if kind == "message":
            self._message(item, where)
        elif kind == "function_call":
            self._call(item, where)
        elif kind == "function_call_output":
            self._result(item, where)
        elif kind == "reasoning":
            self._thought(item, where)
        elif kind == "item_reference":
            message = f"{where}: nothing is kept that could be referred to; send the item itself"
            raise ApiError(message, "input", code="unsupported_value")
        else:
            refuse(f"{where}.type", f"one of {', '.join(_KINDS)}", kind)

    def _message(self, item: JsonObject, where: str) -> None:
        role = item.get("role")
        if role not in ROLES:
            refuse(f"{where}.role", f"one of {', '.join(ROLES)}", role)
        _require_only(item, {"role", "content"}, where)
        if item.get("content") is None:
            refuse(f"{where}.content", "a text, or a list of text parts", None)
        content = _content(item["content"], f"{where}.content")
        if role != "assistant":
            self._open = False
            self.messages.append({"role": "system" if role == "developer" else role, "content": content})
            return
        last = self._answer(after_a_thought=True)
        last["content"] = content

    def _call(self, item: JsonObject, where: str) -> None:
        self._require_calls(where)
        _require_only(item, {"call_id", "name", "arguments"}, where)
        identity = _short(item.get("call_id"), f"{where}.call_id")
        name = _short(item.get("name"), f"{where}.name")
        arguments = read_arguments(item.get("arguments"), f"{where}.arguments")
        call = {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}
        self._answer().setdefault("tool_calls", []).append(call)

    def _result(self, item: JsonObject, where: str) -> None:
        self._require_calls(where)
        _require_only(item, {"call_id", "output"}, where)
        identity = _short(item.get("call_id"), f"{where}.call_id")
        if item.get("output") is None:
            refuse(f"{where}.output", "a text, or a list of text parts", None)
        content = _content(item["output"], f"{where}.output")
        self._open = False
        self.messages.append({"role": "tool", "content": content, "tool_call_id": identity})

    def _thought(self, item: JsonObject, where: str) -> None:
        _require_only(item, {"content"}, where)  # a summary is another model's, and no thought of this one
        parts = item.get("content") or []
        if not isinstance(parts, list):
            refuse(f"{where}.content", "a list of {type: reasoning_text, text}", parts)
        texts = []
        for part in parts:
            if not isinstance(part, dict) or part.get("type") != "reasoning_text" or len(part) > 2:
                refuse(f"{where}.content", "parts of {type: reasoning_text, text}", part)
            texts.append(read_text(part.get("text"), f"{where}.content"))
        if thought := "\n".join(texts):
            self._open = False
            self._answer()["reasoning_content"] = thought

    def _answer(self, after_a_thought: bool = False) -> Message:
        """The assistant's message that goes on, or a new one. `after_a_thought`: where it has no more yet."""
        last = self.messages[-1] if self.messages and self._open else None
        if last is None or (after_a_thought and (last["content"] or "tool_calls" in last)):
            last = {"role": "assistant", "content": ""}
            self.messages.append(last)
        self._open = True
        return last

    def _require_calls(self, where: str) -> None:
        if "tools" in self._lacking:
            raise ApiError(f"{where}: {NO_CALLS}", "input", code="unsupported_value")


def _require_only(item: JsonObject, names: set[str], where: str) -> None:
    """Raise `ApiError` where an item says something beside `names`."""
    for name in sorted(item.keys() - names - _MARKS):
        if not says_nothing(item[name]) and item[name] is not False:
            message = f"{where}.{name[:60]} is not accepted here; leave it out"
            raise ApiError(message, "input", code="unsupported_parameter")


def _content(value: Any, where: str) -> str:
    """The text of parts in the words of this API."""
    if isinstance(value, list):
        for part in value:
            if not isinstance(part, dict) or part.get("type") not in _TEXTS:
                refuse(where, "a text, or parts of type input_text or output_text", part)
        value = [
            {**{name: held for name, held in part.items() if name != "logprobs"}, "type": "text"}
            for part in value
        ]
    return read_content(value, where)


def _short(value: Any, where: str) -> str:
    text = read_text(value, where)
    if not 0 < len(text) <= LONGEST_ID:
        refuse(where, f"1 to {LONGEST_ID} letters", value)
    return text
