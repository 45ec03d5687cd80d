"""The shapes in which people keep chats, turned into messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from stages.data.record import RowError

Row = Mapping[str, Any]
Messages = list[dict[str, str]]

_ROLES = {
    "system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
    "bot": "assistant", "model": "assistant",
}  # fmt: skip
_PAIRS = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("input", "output"))
_SENDERS = ("sender", "speaker")
_TEXTS = ("content", "text", "value")

EXPECTED = {
    "messages": "messages: a list of {role, content}",
    "sharegpt": "conversations: a list of {from, value}",
    "dialogue": "messages (or turns): a list of {sender, text}, or of lists of them",
    "instruction": "instruction and output (input is optional)",
    "prompt-completion": " or ".join(" and ".join(pair) for pair in _PAIRS),
}
"""format → the fields that a row needs, for messages to the user."""


def matches(name: str, row: Row) -> bool:
    """Whether the row has the fields of the format called `name`, whatever they hold."""
    if name == "messages":
        return "messages" in row
    if name == "sharegpt":
        return "conversations" in row
    if name == "dialogue":
        return "messages" in row or "turns" in row
    if name == "instruction":
        return "instruction" in row and "output" in row
    return _pair(row) is not None


def detect(row: Row) -> str | None:
    """The name of the row's format; None where it is none of them."""
    if _has_senders(row.get("messages", row.get("turns"))):
        return "dialogue"
    return next((name for name in ("messages", "sharegpt", "instruction", "prompt-completion")
                 if matches(name, row)), None)  # fmt: skip


def to_messages(name: str, row: Row, system: str | None) -> Messages:
    """Messages of a row: roles system, user, assistant; the first may be the system's, the last answers.

    `system` is put before rows that have no system message.
    Raises `RowError` saying what is missing or wrong.
    """
    messages = _READERS[name](row)
    if messages and messages[0]["role"] == "system" and not messages[0]["content"].strip():
        messages = messages[1:]
    if system is not None and not (messages and messages[0]["role"] == "system"):
        messages = [{"role": "system", "content": system}, *messages]
    _check(messages)
    return messages


def _check(messages: Messages) -> None:
    turns = messages[1:] if messages and messages[0]["role"] == "system" else messages
    if any(m["role"] == "system" for m in turns):
        raise RowError("unsupported_role", "a system message stands after the first message")
    if not turns or turns[0]["role"] != "user":
        raise RowError("missing_prompt", "the row has no user message before the assistant's")
    if turns[-1]["role"] != "assistant" or not turns[-1]["content"].strip():
        raise RowError("missing_answer", "the row has no answer: its last message must be the assistant's")
    for number, message in enumerate(messages, 1):
        if not message["content"].strip():
            raise RowError("empty_message", f"message {number} ({message['role']}) is empty")


def _from_messages(row: Row) -> Messages:
    return _turns(row, "messages", "role", "content")


def _from_sharegpt(row: Row) -> Messages:
    return _with_system(row, _turns(row, "conversations", "from", "value"))


def _turns(row: Row, field: str, role_key: str, text_key: str) -> Messages:
    messages = []
    for turn in _list(row, field):
        if not isinstance(turn, Mapping):
            raise RowError("wrong_type", f"{field} holds a {_kind(turn)}, expected {EXPECTED['messages']}")
        role = turn.get(role_key, turn.get("role"))
        if not isinstance(role, str) or role not in _ROLES:
            raise RowError("unsupported_role", f"the role {role!r} is not one of {', '.join(_ROLES)}")
        messages.append(_message(_ROLES[role], turn.get(text_key, turn.get("content"))))
    return messages


def _from_dialogue(row: Row) -> Messages:
    """Two people: whoever speaks first is the user. What one says in a row is one message."""
    spoken = []
    for turn in _list(row, "messages" if "messages" in row else "turns"):
        for utterance in turn if isinstance(turn, list) else [turn]:
            if not isinstance(utterance, Mapping) or (sender := _first(utterance, _SENDERS)) is None:
                raise RowError("wrong_type", f"expected {EXPECTED['dialogue']}, found a {_kind(utterance)}")
            spoken.append((sender, _text(_first(utterance, _TEXTS))))
    if len(people := dict.fromkeys(sender for sender, _ in spoken)) > 2:
        raise RowError("unsupported_role", f"{len(people)} people speak; expected two")
    roles = dict(zip(people, ("user", "assistant"), strict=False))
    messages = [
        _message(roles[sender], "\n".join(text for _, text in said if text.strip()))
        for sender, said in groupby(spoken, key=lambda one: one[0])
    ]
    # The first speaker often has the last word: a row ends with the last answer.
    return messages[:-1] if len(messages) > 1 and messages[-1]["role"] == "user" else messages


def _from_instruction(row: Row) -> Messages:
    prompt = _text(row.get("instruction"))
    extra = row.get("input")
    if isinstance(extra, str) and extra.strip():
        prompt = f"{prompt}\n\n{extra}"
    return _with_system(row, [_message("user", prompt), _answer(row.get("output"))])


def _from_pair(row: Row) -> Messages:
    pair = _pair(row)
    if pair is None:
        raise RowError("missing_field", f"expected {EXPECTED['prompt-completion']}, found {', '.join(row)}")
    prompt, answer = row[pair[0]], row[pair[1]]
    if isinstance(prompt, list) and isinstance(answer, list):
        return _from_messages({"messages": [*prompt, *answer]})
    return _with_system(row, [_message("user", prompt), _answer(answer)])


def _with_system(row: Row, messages: Messages) -> Messages:
    system = row.get("system")
    return [_message("system", system), *messages] if isinstance(system, str) and system else messages


def _answer(value: Any) -> dict[str, str]:
    if value is None:
        raise RowError("missing_answer", "the row has no answer")
    return _message("assistant", value)


def _message(role: str, content: Any) -> dict[str, str]:
    return {"role": role, "content": _text(content)}


def _text(value: Any) -> str:
    """A text; or the texts of a list of parts, as multi-part chats hold them."""
    if isinstance(value, list) and all(isinstance(p, Mapping) and p.get("type") == "text" for p in value):
        value = "".join(_text(part.get("text")) for part in value)
    if not isinstance(value, str):
        raise RowError("wrong_type", f"a text is expected where the row has {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowError("malformed", f"half a surrogate pair stands at character {error.start + 1}") from error
    return value


def _list(row: Row, field: str) -> Sequence[Any]:
    value = row.get(field)
    if not isinstance(value, list):
        raise RowError("wrong_type", f"{field} is {_kind(value)}, expected a list")
    return value


def _has_senders(value: Any) -> bool:
    first = value[0] if isinstance(value, list) and value else None
    first = first[0] if isinstance(first, list) and first else first
    return isinstance(first, Mapping) and "role" not in first and _first(first, _SENDERS) is not None


def _pair(row: Row) -> tuple[str, str] | None:
    return next((pair for pair in _PAIRS if pair[0] in row and pair[1] in row), None)


def _first(row: Row, keys: Sequence[str]) -> Any:
    return next((row[key] for key in keys if key in row), None)


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


_READERS: dict[str, Callable[[Row], Messages]] = {
    "messages": _from_messages,
    "sharegpt": _from_sharegpt,
    "dialogue": _from_dialogue,
    "instruction": _from_instruction,
    "prompt-completion": _from_pair,
}
