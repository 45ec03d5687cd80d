"""Rows in the shapes in which people keep chats."""

from __future__ import annotations

from typing import Any

from tests.stages.backends import templates
from tests.stages.data.odd.case import Case

FUNCTION = {"name": "warmth", "parameters": {"type": "object", "properties": {"town": {"type": "string"}}}}
TOOLS = [{"type": "function", "function": FUNCTION}]
ASKED = {"role": "user", "content": "Warm in Bo?"}
ANSWER = {"role": "assistant", "content": "Yes."}
CALL = {"id": "c1", "type": "function", "function": {"name": "warmth", "arguments": '{"town": "Bo"}'}}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "21"}


def chat(*messages: dict[str, Any], **row: Any) -> dict[str, Any]:
    return {"messages": list(messages), **row}


def user(text: Any = "Warm in Bo?", **fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **fields}


def answer(text: Any = "Yes.", **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **fields}


def with_tools(*messages: dict[str, Any], **row: Any) -> dict[str, Any]:
    return chat(user(), *messages, **{"tools": TOOLS, **row})


PLAIN = chat(user("What is two and two?"), answer("Four."))


def messages_case(kind: str, row: Any, expected: str, **more: Any) -> Case:
    return Case(kind, [row], expected, plain=PLAIN, **more)


def tools_case(kind: str, row: Any, expected: str, **more: Any) -> Case:
    return messages_case(kind, row, expected, **{"template": templates.CHATML_TOOLS, **more})


def shared(*turns: tuple[str, str], **row: Any) -> dict[str, Any]:
    return {"conversations": [{"from": who, "value": text} for who, text in turns], **row}


SHARED_PLAIN = shared(("human", "What is two and two?"), ("gpt", "Four."))
ALPACA_PLAIN = {"instruction": "What is two and two?", "output": "Four."}


def shared_case(kind: str, row: Any, expected: str, **more: Any) -> Case:
    return Case(kind, [row], expected, plain=SHARED_PLAIN, **more)


def alpaca_case(kind: str, row: Any, expected: str, **more: Any) -> Case:
    return Case(kind, [row], expected, plain=ALPACA_PLAIN, **more)
