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


def read_messages(found: Any, most: int) -> tuple[Message, ...]:
    """Each with `role`, `content` and, where it says one, `name`. Raises `ApiError`."""
    if not isinstance(found, list) or not 0 < len(found) <= most:
        refuse("messages", f"a list of 1 to {most} messages", found)
    return tuple(_message(one, f"messages[{place}]") for place, one in enumerate(found))


def read_prompt(found: Any) -> str:
    """The only text, which may stand in a list, as LangChain and LiteLLM send it. Raises `ApiError`."""
    if isinstance(found, list) and len(found) > 1 and all(isinstance(one, str) for one in found):
        said = f"prompt: expected one text, found {len(found)}; send a request for each"
        raise ApiError(said, "prompt", code="unsupported_value")
    one = found[0] if isinstance(found, list) and len(found) == 1 else found
    if not isinstance(one, str) or not one:
        refuse("prompt", "a text that is not empty, not token ids", found)
    return one


def _message(found: Any, where: str) -> Message:
    if not isinstance(found, dict):
        refuse(where, "an object with role and content", found)
    told = {name: value for name, value in found.items() if not says_nothing(value)}
    role = "system" if found.get("role") == "developer" else found.get("role")
    if role in ("tool", "function") or told.keys() & _CALLS:
        named = next(iter(sorted(told.keys() & _CALLS)), "role")
        raise ApiError(f"{where}.{named}: {_NO_CALLS}", "messages", code="unsupported_value")
    for name in sorted(told.keys() - {"role", "content", "name"}):
        raise ApiError(f"{where}.{name[:60]} is not accepted here; leave it out", "messages")
    if role not in ROLES:
        refuse(f"{where}.role", f"one of {', '.join((*ROLES, 'developer'))}", role)
    if found.get("content") is None and role != "assistant":
        refuse(f"{where}.content", "a text, or a list of text parts", None)
    message = {"role": role, "content": _content(found.get("content"), f"{where}.content")}
    if "name" in told:
        if not isinstance(told["name"], str):
            refuse(f"{where}.name", "a text", told["name"])
        message["name"] = told["name"]
    return message


def _content(found: Any, where: str) -> str:
    """The text of one message; anything that would have to be fetched or decoded is refused."""
    if found is None or isinstance(found, str):
        return found or ""
    if not isinstance(found, list):
        refuse(where, "a text, or a list of text parts", found)
    texts = []
    for part in found:
        known = isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        if not known or any(not says_nothing(part[name]) for name in part.keys() - _HINTS):
            refuse(where, "text parts only: {type: text, text: …}", part)
        texts.append(part["text"])
    return "\n".join(texts)  # as vLLM and llama.cpp's own server put them together
