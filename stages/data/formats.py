"""The shapes in which people keep chats, turned into messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from stages.config.prepare import TrainOn
from stages.data.chats import calls as tool_calls
from stages.data.chats.answers import OF_ANSWER, reasoning_of, weigh, weight_of
from stages.data.chats.contents import document_of, require_answer, text_of
from stages.data.chats.offered import offered as tools_offered
from stages.data.fields import COMPARED, REFUSED_IN_ROW, REFUSED_IN_TURN, account, require_one, says_nothing
from stages.data.source_row import RowError, kind, named, shown
from stages.formats.messages import is_document

Row = Mapping[str, Any]
Messages = list[dict[str, Any]]
"""As `stages.formats.messages.Message` says."""

_CALLED = {
    "system": ("system", "developer"),
    "user": ("user", "human"),
    "assistant": ("assistant", "gpt", "bot", "model", "function_call"),
    "tool": ("tool", "function", "observation"),
}
_ROLES = {name: role for role, names in _CALLED.items() for name in names}
_PAIRS = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("input", "output"))
_INPUTS = ("input", "context")
_OUTPUTS = ("output", "response")
_SENDERS = ("sender", "speaker")
_TEXTS = ("content", "text", "value")

EXPECTED = {
    "messages": "messages: a list of {role, content}",
    "sharegpt": "conversations: a list of {from, value}",
    "dialogue": "messages (or turns): a list of {sender, text}, or of lists of them",
    "instruction": "instruction and output or response (input or context, system and history are optional)",
    "prompt-completion": " or ".join(" and ".join(pair) for pair in _PAIRS),
    "text": "text: a document, for prepare.format: text",
}
"""format → the fields that a row needs, for messages to the user."""


def matches(name: str, row: Row) -> bool:
    """Whether the row has the fields of the format called `name`, whatever they hold."""
    if name in ("messages", "text"):
        return name in row
    if name == "sharegpt":
        return "conversations" in row
    if name == "dialogue":
        return "messages" in row or "turns" in row
    if name == "instruction":
        return "instruction" in row and _first_key(row, _OUTPUTS) is not None
    return _pair(row) is not None


def detect(row: Row) -> str | None:
    """The name of the row's format; None where it is none of them."""
    if _has_senders(row.get("messages", row.get("turns"))):
        return "dialogue"
    others = ("messages", "sharegpt", "instruction", "prompt-completion")
    return next((name for name in others if matches(name, row)), None)


def to_messages(
    name: str, row: Row, system: str | None, unused: Counter[str], train_on: TrainOn = "all"
) -> Messages:
    """Messages of a row (system, user, assistant, tool): the first may be the system's, the last answers.

    `system` is put before rows that have no system message. Tools are the first message's. Fields that are
    not used are counted in `unused`.
    Raises `RowError` saying what is missing or wrong, or which field cannot be used.
    """
    _require_format(name, row)
    messages = _READERS[name](row, unused)
    if is_document(messages):
        return messages
    tools = messages[0].pop("tools", None) if messages else None
    if messages and messages[0]["role"] == "system" and not messages[0]["content"].strip():
        messages = messages[1:]
    if system is not None and not (messages and messages[0]["role"] == "system"):
        messages = [{"role": "system", "content": system}, *messages]
    _check(messages)
    tool_calls.link(messages)
    weigh(messages, train_on)
    if tools is not None:
        messages[0] = {**messages[0], "tools": tools}
    return messages


def _require_format(name: str, row: Row) -> None:
    """Raise `RowError` for a row of another format, which the rows before it are not."""
    if matches(name, row):
        return
    if compared := [field for field in COMPARED if not says_nothing(field, row.get(field))]:
        raise RowError("unsupported_field", f"the row has {compared[0]}: {REFUSED_IN_ROW[compared[0]]}")
    if (other := detect(row)) is not None:
        raise RowError(
            "other_format",
            f"the row is of the format {other}, and the first rows are of {name}; put rows of another format "
            "into a file of their own, which prepare.mix reads",
        )


def _check(messages: Messages) -> None:
    turns = messages[1:] if messages and messages[0]["role"] == "system" else messages
    if any(m["role"] == "system" for m in turns):
        raise RowError("unsupported_role", "a system message stands after the first message")
    if not turns or turns[0]["role"] != "user":
        raise RowError("missing_prompt", "the row has no user message before the assistant's")
    if turns[-1]["role"] != "assistant" or not (turns[-1]["content"].strip() or "tool_calls" in turns[-1]):
        raise RowError("missing_answer", "the row has no answer: its last message must be the assistant's")
    for number, message in enumerate(messages, 1):
        if not (message["content"].strip() or "tool_calls" in message or message["role"] == "tool"):
            raise RowError("empty_message", f"message {number} ({message['role']}) is empty")
        if message["role"] == "assistant":
            require_answer(message["content"], number, "tool_calls" in message)


def _from_messages(row: Row, unused: Counter[str]) -> Messages:
    turns = _turns(row.get("messages"), "messages", ("role",), ("content",), unused)
    return _with_system(row, "messages", turns, unused)


def _from_sharegpt(row: Row, unused: Counter[str]) -> Messages:
    turns = _turns(row.get("conversations"), "conversations", ("from", "role"), ("value", "content"), unused)
    return _with_system(row, "conversations", turns, unused)


def _turns(
    value: Any, field: str, roles: Sequence[str], texts: Sequence[str], unused: Counter[str]
) -> Messages:
    messages = []
    for number, turn in enumerate(_list(value, field), 1):
        if not isinstance(turn, Mapping):
            raise RowError("wrong_type", f"{field} holds {kind(turn)}, expected {EXPECTED['messages']}")
        role_key, text_key = _first_key(turn, roles) or roles[0], _first_key(turn, texts) or texts[0]
        role = turn.get(role_key)
        if not isinstance(role, str) or role not in _ROLES:
            raise RowError("unsupported_role", f"the role {shown(role)} is not one of {', '.join(_ROLES)}")
        message, used = _turn(turn, role, text_key, number, field, unused)
        account(turn, (role_key, *used), REFUSED_IN_TURN, f"{field}[].", f"message {number}", unused)
        messages.append(message)
    return messages


def _turn(
    turn: Row, said: str, text_key: str, number: int, field: str, unused: Counter[str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The message of a turn whose role is `said`, and the fields that it is made of."""
    role, text, what = _ROLES[said], turn.get(text_key), f"message {number} ({said})"
    if role == "tool":
        beside = {name: turn[name] for name in tool_calls.OF_RESULT if not _is_blank(turn.get(name))}
        if wrong := [name for name, value in beside.items() if not isinstance(value, str)]:
            raise RowError(
                "wrong_type", f"message {number}: {wrong[0]} is {kind(turn[wrong[0]])}, expected a text"
            )
        return {**_message(role, text, what), **beside}, (text_key, *tool_calls.OF_RESULT)
    if role != "assistant":
        return _message(role, text, what), (text_key,)
    beside = {**reasoning_of(turn, number), **weight_of(turn, number)}
    if "reasoning_content" in beside:
        beside["reasoning_content"] = text_of(
            beside["reasoning_content"], f"the reasoning of message {number}"
        )
    if said == "function_call":
        calls = tool_calls.calls_in_text(text, number, field, unused)
        return {"role": role, "content": "", "tool_calls": calls, **beside}, (text_key, *OF_ANSWER)
    calls = tool_calls.calls_of(turn, number, field, unused)
    if calls:
        beside, text = {"tool_calls": calls, **beside}, "" if text is None else text
    return {**_message(role, text, what), **beside}, (text_key, *OF_ANSWER, *tool_calls.OF_CALLER)


def _from_dialogue(row: Row, unused: Counter[str]) -> Messages:
    """Two people: whoever speaks first is the user. What one says in a row is one message."""
    spoken: list[tuple[Any, str]] = []
    field = "messages" if "messages" in row else "turns"
    for turn in _list(row.get(field), field):
        for utterance in turn if isinstance(turn, list) else [turn]:
            sender = _first_key(utterance, _SENDERS) if isinstance(utterance, Mapping) else None
            if sender is None or not isinstance(utterance[sender], str | int):
                raise RowError("wrong_type", f"expected {EXPECTED['dialogue']}, found {kind(utterance)}")
            text = _first_key(utterance, _TEXTS) or _TEXTS[0]
            account(
                utterance, (sender, text), REFUSED_IN_TURN, f"{field}[].", f"line {len(spoken) + 1}", unused
            )
            spoken.append((utterance[sender], text_of(utterance.get(text), f"line {len(spoken) + 1}")))
    if len(people := dict.fromkeys(sender for sender, _ in spoken)) > 2:
        raise RowError("unsupported_role", f"{len(people)} people speak; expected two")
    roles = dict(zip(people, ("user", "assistant"), strict=False))
    messages = [
        {"role": roles[sender], "content": "\n".join(text for _, text in utterances if text.strip())}
        for sender, utterances in groupby(spoken, key=lambda turn: turn[0])
    ]
    # The first speaker often has the last word: a row ends with the last answer.
    if len(messages) > 1 and messages[-1]["role"] == "user":
        messages.pop()
    return _with_system(row, field, messages, unused, tools=False)


def _from_instruction(row: Row, unused: Counter[str]) -> Messages:
    output = _first_key(row, _OUTPUTS) or _OUTPUTS[0]
    extras = [key for key in _INPUTS if not _is_blank(row.get(key))]
    if len(extras) > 1:
        raise RowError("unsupported_field", "the row has input and context; one can follow the instruction")
    prompt = "\n\n".join(text_of(row.get(key), key) for key in ("instruction", *extras))
    return _asked_and_answered(row, ("instruction", *extras), prompt, output, unused)


def _from_pair(row: Row, unused: Counter[str]) -> Messages:
    pair = _pair(row)
    if pair is None:
        fields = ", ".join(map(named, row))
        raise RowError("missing_field", f"expected {EXPECTED['prompt-completion']}, found {fields}")
    prompt, answer = row[pair[0]], row[pair[1]]
    if isinstance(prompt, list) and isinstance(answer, list):
        parts = (_turns(row[key], key, ("role",), ("content",), unused) for key in pair)
        return _with_system(row, pair, [turn for part in parts for turn in part], unused)
    return _asked_and_answered(row, pair[:1], prompt, pair[1], unused)


def _asked_and_answered(
    row: Row, asked: Sequence[str], prompt: Any, answer: str, unused: Counter[str]
) -> Messages:
    """A prompt after the turns of the row's `history` ([question, answer] pairs), and its answer."""
    require_one(row, asked, answer)
    earlier = row.get("history")
    if says_nothing("history", earlier):
        earlier = []
    if not isinstance(earlier, list) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in earlier):
        raise RowError("unsupported_field", "history is expected as a list of [question, answer] pairs")
    turns = []
    for question, reply in earlier:
        turns += [_message("user", question, "history"), _message("assistant", reply, "history")]
    if row.get(answer) is None:
        raise RowError("missing_answer", f"the row has no answer: {answer} is null or missing")
    turns += [_message("user", prompt, asked[0]), _message("assistant", row[answer], answer)]
    return _with_system(row, (*asked, answer, "history"), turns, unused)


def _with_system(
    row: Row, used: str | Sequence[str], messages: Messages, unused: Counter[str], tools: bool = True
) -> Messages:
    """The messages after the row's own system text; `used` are the fields that they come from.

    `tools`: the row's tools go into the first of them.
    """
    names = {used} if isinstance(used, str) else {*used}
    names |= {"system", *(tool_calls.OF_ROW if tools else ())}
    account(row, names, REFUSED_IN_ROW, "", "the row", unused)
    system = row.get("system")
    if not _is_blank(system):
        messages = [_message("system", system, "system"), *messages]
    offered = tools_offered(row) if tools else None
    tool_calls.require_agreement(row, messages, offered)
    if offered is not None and messages:
        messages[0]["tools"] = offered
    return messages


def _message(role: str, content: Any, what: str) -> dict[str, Any]:
    return {"role": role, "content": text_of(content, what)}


def _list(value: Any, field: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise RowError("wrong_type", f"{field} is {kind(value)}, expected a list")
    return value


def _has_senders(value: Any) -> bool:
    first = value[0] if isinstance(value, list) and value else None
    first = first[0] if isinstance(first, list) and first else first
    return isinstance(first, Mapping) and "role" not in first and _first_key(first, _SENDERS) is not None


def _pair(row: Row) -> tuple[str, str] | None:
    return next((pair for pair in _PAIRS if pair[0] in row and pair[1] in row), None)


def _first_key(row: Row, keys: Sequence[str]) -> str | None:
    return next((key for key in keys if key in row), None)


def _is_blank(text: Any) -> bool:
    return text is None or (isinstance(text, str) and not text.strip())


_READERS: dict[str, Callable[[Row, Counter[str]], Messages]] = {
    "messages": _from_messages,
    "sharegpt": _from_sharegpt,
    "dialogue": _from_dialogue,
    "instruction": _from_instruction,
    "prompt-completion": _from_pair,
    "text": document_of,
}
