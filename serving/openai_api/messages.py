"""A chat's messages and a text completion's prompt, as texts."""

from __future__ import annotations

from typing import Any

from serving.openai_api.errors import ApiError
from serving.openai_api.fields import refuse, says_nothing

ROLES = ("system", "user", "assistant")
_CALLS = frozenset({"tool_calls", "function_call", "tool_call_id"})
_NO_CALLS = (
    "no engine here calls functions, so neither calls nor the roles 'tool' and 'function' are accepted; "
    "write what was called and what came of it as text"
)
_HINTS = frozenset({"type", "text", "cache_control"})
"""`cache_control` tells a cache what to keep; here every prefix is kept."""

Message = dict[str, str]


def read_messages(value: Any, most: int) -> tuple[Message, ...]:
    """Each with `role`, `content` and, where it says one, `name`. Raises `ApiError`."""
    if not isinstance(value, list) or not 0 < len(value) <= most:
        refuse("messages", f"a list of 1 to {most} messages", value)
    return tuple(_message(message, f"messages[{index}]") for index, message in enumerate(value))


def read_prompt(value: Any) -> str:
    """The only text, which may stand in a list, as LangChain and LiteLLM send it. Raises `ApiError`."""
    if isinstance(value, list) and len(value) > 1 and all(isinstance(text, str) for text in value):
        message = f"prompt: expected one text, found {len(value)}; send a request for each"
        raise ApiError(message, "prompt", code="unsupported_value")
    text = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not isinstance(text, str) or not text:
        refuse("prompt", "a text that is not empty, not token ids", value)
    return text


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        refuse(where, "an object with role and content", value)
    given = {name: part for name, part in value.items() if not says_nothing(part)}
    role = "system" if value.get("role") == "developer" else value.get("role")
    if role in ("tool", "function") or given.keys() & _CALLS:
        named = next(iter(sorted(given.keys() & _CALLS)), "role")
        raise ApiError(f"{where}.{named}: {_NO_CALLS}", "messages", code="unsupported_value")
    for name in sorted(given.keys() - {"role", "content", "name"}):
        raise ApiError(f"{where}.{name[:60]} is not accepted here; leave it out", "messages")
    if role not in ROLES:
        refuse(f"{where}.role", f"one of {', '.join((*ROLES, 'developer'))}", role)
    if value.get("content") is None and role != "assistant":
        refuse(f"{where}.content", "a text, or a list of text parts", None)
    message = {"role": role, "content": _content(value.get("content"), f"{where}.content")}
    if "name" in given:
        if not isinstance(given["name"], str):
            refuse(f"{where}.name", "a text", given["name"])
        message["name"] = given["name"]
    return message


def _content(value: Any, where: str) -> str:
    """The text of one message; anything that would have to be fetched or decoded is refused."""
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
