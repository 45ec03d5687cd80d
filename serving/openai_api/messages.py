"""A chat's messages and a text completion's prompt, as texts."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from serving.openai_api.errors import ApiError
from serving.openai_api.fields import JsonObject, in_known_role, refuse, says_nothing

ROLES = ("system", "user", "assistant")
_CALLS = frozenset({"tool_calls", "function_call", "tool_call_id"})
NO_CALLS = (
    "no engine here calls functions, so neither calls nor the roles 'tool' and 'function' are accepted; "
    "write what was called and what came of it as text"
)
LONGEST_ID = 64
_HINTS = frozenset({"type", "text", "cache_control"})
"""`cache_control` tells a cache what to keep; here every prefix is kept."""

Message = dict[str, Any]
"""`role` and `content`, a text; perhaps `name`; an assistant's `tool_calls` and `reasoning_content`; a
result's `tool_call_id`. Arguments of calls are JSON text of an object."""


def read_messages(value: Any, most: int, lacking: Collection[str]) -> tuple[Message, ...]:
    """`lacking`: whether calls of functions and their results (`tools`) are not done. Raises `ApiError`."""
    if not isinstance(value, list) or not 0 < len(value) <= most:
        refuse("messages", f"a list of 1 to {most} messages", value)
    messages = [_message(message, f"messages[{index}]", lacking) for index, message in enumerate(value)]
    require_results_answer_calls(messages, "messages")
    return tuple(messages)


def require_results_answer_calls(messages: Sequence[Message], param: str) -> None:
    """Raise `ApiError` where a result follows no call with its id, or a second result of the call.

    `param`: the request's field that holds the conversation.
    """
    open_calls = set[str]()
    for message in messages:
        if message["role"] == "assistant":
            open_calls = {call["id"] for call in message.get("tool_calls", ())}
        elif message["role"] != "tool":
            open_calls = set()
        elif message["tool_call_id"] in open_calls:
            open_calls.remove(message["tool_call_id"])
        else:
            shown = json.dumps(message["tool_call_id"])[:LONGEST_ID]
            text = (
                f"{param}: the result with tool_call_id {shown} answers no call: expected one of that id in "
                "the assistant's message before it, and one result of it; send the call too"
            )
            raise ApiError(text, param)


def read_prompt(value: Any) -> str:
    """The only text, which may stand in a list, as LangChain and LiteLLM send it. Raises `ApiError`."""
    if isinstance(value, list) and len(value) > 1 and all(isinstance(text, str) for text in value):
        message = f"prompt: expected one text, found {len(value)}; send a request for each"
        raise ApiError(message, "prompt", code="unsupported_value")
    text = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not isinstance(text, str) or not text:
        refuse("prompt", "a text that is not empty, not token ids", value)
    return text


def texts_of(message: Message) -> Iterator[str]:
    """Each text in it that a model reads."""
    yield message["content"]
    yield message.get("name", "")
    yield message.get("reasoning_content", "")
    for call in message.get("tool_calls", ()):
        yield from (call["id"], call["function"]["name"], call["function"]["arguments"])


def _message(value: Any, where: str, lacking: Collection[str]) -> Message:
    if not isinstance(value, dict):
        refuse(where, "an object with role and content", value)
    given = {name: part for name, part in value.items() if not says_nothing(part)}
    role = in_known_role(value).get("role")
    calls = "tools" not in lacking
    if not calls and (role in ("tool", "function") or given.keys() & _CALLS):
        named = next(iter(sorted(given.keys() & _CALLS)), "role")
        raise ApiError(f"{where}.{named}: {NO_CALLS}", "messages", code="unsupported_value")
    own = {"assistant": {"tool_calls", "reasoning_content"}, "tool": {"tool_call_id"}}
    for name in sorted(given.keys() - {"role", "content", "name"} - own.get(str(role), set())):
        raise ApiError(f"{where}.{name[:60]} is not accepted here; leave it out", "messages")
    if role not in (*ROLES, "tool"):
        refuse(f"{where}.role", f"one of {', '.join((*ROLES, 'developer', *(['tool'] * calls)))}", role)
    if value.get("content") is None and role != "assistant":
        refuse(f"{where}.content", "a text, or a list of text parts", None)
    message: Message = {"role": role, "content": read_content(value.get("content"), f"{where}.content")}
    if role == "tool" or "name" in given:
        for name in ("tool_call_id", "name") if role == "tool" else ("name",):
            if name in given or name == "tool_call_id":
                message[name] = read_text(given.get(name), f"{where}.{name}")
    if "reasoning_content" in given:
        message["reasoning_content"] = read_text(given["reasoning_content"], f"{where}.reasoning_content")
    if "tool_calls" in given:
        message["tool_calls"] = _calls(given["tool_calls"], f"{where}.tool_calls")
    return message


def read_text(value: Any, where: str) -> str:
    """What stands at `where`. Raises `ApiError`."""
    if not isinstance(value, str):
        refuse(where, "a text", value)
    return value


def _calls(value: Any, where: str) -> list[JsonObject]:
    if not isinstance(value, list):
        refuse(where, "a list of calls", value)
    calls = []
    for number, call in enumerate(value):
        place = f"{where}[{number}]"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or call.get("type") != "function":
            refuse(place, "{id, type: function, function: {name, arguments}}", call)
        identity = read_text(call.get("id"), f"{place}.id")
        name = read_text(function.get("name"), f"{place}.function.name")
        if not 0 < len(identity) <= LONGEST_ID or not 0 < len(name) <= LONGEST_ID:
            refuse(place, f"an id and a name of 1 to {LONGEST_ID} letters", call)
        arguments = read_arguments(function.get("arguments"), f"{place}.function.arguments")
        calls.append({"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}})
    return calls


def read_arguments(value: Any, where: str) -> str:
    """A call's arguments, as JSON text. Raises `ApiError`."""
    try:
        found = json.loads(value) if isinstance(value, str) else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        refuse(where, "the JSON text of an object", value)
    return str(value)


def read_content(value: Any, where: str) -> str:
    """The text of one message; anything that would have to be fetched or decoded is refused.

    Raises `ApiError`.
    """
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        refuse(where, "a text, or a list of text parts", value)
    texts = []
    for part in value:
        is_text = isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        if not is_text or any(not says_nothing(part[name]) for name in part.keys() - _HINTS):
            refuse(where, "text parts only: {type: text, text: …}", part)
        texts.append(part["text"])
    return "\n".join(texts)  # as vLLM and llama.cpp's own server put them together
