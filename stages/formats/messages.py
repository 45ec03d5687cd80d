"""Messages of a prepared chat, and what they may hold beside role and content, by the OpenAI API's names.

The tools of a chat stand in its first message, whatever the role: whoever has the messages has the tools, and
no reader can render one without the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from registry.artifacts import JsonObject

Message = Mapping[str, Any]
"""`role` (system, user, assistant or tool, or that of raw text: `is_document`) and `content` (a text, empty
where a message only calls). Where there are any: `reasoning_content`; `tool_calls`, of {id, type, function:
{name, arguments}} with `arguments` as the JSON text of an object; of a result `tool_call_id` and `name`;
`weight`, 0 where it is not trained; and in the first message `tools`, the JSON text of a list of {type,
function}. Parquet has null where there is none."""

_PLAIN = frozenset(("role", "content"))
DOCUMENT, PART = "document", "part"
"""Roles of raw text: a document or the end of one, and a piece of one that goes on in another row."""


def fields(message: Message) -> dict[str, Any]:
    """The message without what is null."""
    return {name: value for name, value in message.items() if value is not None}


def beside_content(message: Message) -> dict[str, Any]:
    """What the message holds beside role and content."""
    return {name: value for name, value in message.items() if value is not None and name not in _PLAIN}


def is_plain(messages: Sequence[Message]) -> bool:
    """Whether the chat holds nothing but roles and contents, of which no role is a tool's."""
    return not any(beside_content(m) or m["role"] == "tool" for m in messages)


def is_document(messages: Sequence[Message]) -> bool:
    """Whether the row is raw text, whole or a piece: a single message, which no chat template writes."""
    return len(messages) == 1 and messages[0]["role"] in (DOCUMENT, PART)


def as_request(messages: Sequence[Message]) -> list[dict[str, str]] | None:
    """Roles and contents, as engines take them; None where the chat holds more, or is none."""
    if any(m["role"] == "tool" or beside_content(m).keys() - {"weight"} for m in messages):
        return None
    if is_document(messages):
        return None
    return [{"role": m["role"], "content": m["content"]} for m in messages]


def last_answer_only(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The chat with weight 0 on each answer but the last, so that only that one is learned or scored."""
    chat = [fields(message) for message in messages]
    for message in chat[:-1]:
        if message["role"] == "assistant":
            message["weight"] = 0
    return chat


def tools_of(messages: Sequence[Message]) -> list[JsonObject] | None:
    """The tools that the chat offers, as `apply_chat_template` takes them; None where it offers none."""
    text = messages[0].get("tools") if messages else None
    return list(json.loads(text)) if text else None


def texts(message: Message) -> Iterator[str]:
    """Each text of the message that a model reads or writes: reasoning, content, calls, tools."""
    yield str(message["content"])
    for name in ("reasoning_content", "tools"):
        if message.get(name):
            yield str(message[name])
    for call in message.get("tool_calls") or ():
        yield str(call["function"]["name"])
        yield str(call["function"]["arguments"])


def said(message: Message) -> str:
    """All texts of the message as one; the content itself where there is nothing else."""
    return (
        "\n".join(text for text in texts(message) if text) if beside_content(message) else message["content"]
    )


def asked(messages: Sequence[Message]) -> str:
    """What a chat asks: its contents without those of system messages."""
    return "\n".join(str(message["content"]) for message in messages if message["role"] != "system")
