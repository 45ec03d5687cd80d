"""Pairs of answers to one prompt, the better one and the other, in the shapes in which people keep them.

Read are `chosen` and `rejected` as texts or lists of messages, with a `prompt` beside them or the whole chat
in each (TRL); dialogues that are one text of Human and Assistant (Anthropic's HH); one message each after
`conversations` (LLaMA-Factory) or `messages`; and OpenAI's `preferred_output` and `non_preferred_output`.

Also chats of any shape with a label each, as KTO takes them: `label` (TRL) or `kto_tag` (LLaMA-Factory).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stages.config.prepare import TrainOn
from stages.data import formats
from stages.data.fields import LABELS, says_nothing
from stages.data.formats import Messages, Row, to_messages
from stages.data.source_row import RowError, shown
from stages.formats.messages import said

FORMAT, LABELLED = "preferences", "unpaired-preferences"
CHOSEN, REJECTED = ("chosen", "preferred_output"), ("rejected", "non_preferred_output")
EXPECTED = {
    **formats.EXPECTED,
    FORMAT: "chosen and rejected: two texts or two lists of messages, with a prompt beside them or the whole "
    "chat in each",
    LABELLED: "a chat in any of the shapes before, and label (or kto_tag): true where its answer is good, "
    "else false",
}
"""format → the fields that a row needs, for messages to the user."""
_PROMPTS = ("prompt", "question", "messages", "conversations", "instruction")
_ANSWERS = ("completion", "response", "answer", "output")
_ROLES = ("assistant", "gpt", "bot", "model", "function_call")
_SPEAKER = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
_CALLED = {"Human": "user", "Assistant": "assistant"}
_GOOD = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
"""What a label may be, as a text in lower case."""


class Read(NamedTuple):
    """The chat of a row, the answer that its last message is preferred to, and whether it is called good."""

    messages: Messages
    rejected: dict[str, Any] | None = None
    desirable: bool = True


def matches(name: str, row: Row) -> bool:
    """Whether the row has the fields of the format called `name`, whatever they hold."""
    if name == FORMAT:
        return _first(row, CHOSEN) is not None and _first(row, REJECTED) is not None
    if name == LABELLED:
        return any(label in row for label in LABELS) and formats.detect(row) is not None
    return formats.matches(name, row)


def read_row(
    name: str, row: Row, system: str | None, unused: Counter[str], train_on: TrainOn = "all"
) -> Read:
    """What a row holds.

    Raises `RowError` as `to_messages` does; of preferences also where the prompts differ, or the answers do
    not, and of labelled answers where the label is missing or says neither good nor bad.
    """
    if name == LABELLED:
        good, rest = _label(row)
        shape = formats.detect(rest)
        if shape is None:
            raise RowError("missing_field", f"expected {EXPECTED[LABELLED]}")
        return Read(to_messages(shape, rest, system, unused, train_on), desirable=good)
    if name != FORMAT:
        return Read(to_messages(name, row, system, unused, train_on))
    chosen, rejected = _first(row, CHOSEN), _first(row, REJECTED)
    if chosen is None or rejected is None:
        raise RowError("missing_field", f"expected {EXPECTED[FORMAT]}")
    rest = _flat({field: value for field, value in row.items() if field not in (chosen, rejected)})
    chats = []
    for key in (chosen, rejected):
        try:
            shape, chat = _with_answer(dict(rest), row[key])
            chats.append(to_messages(shape, chat, system, unused, train_on))
        except RowError as error:
            raise RowError(error.code, f"{key}: {error}") from None
    return Read(*_compared(*chats))


def _label(row: Row) -> tuple[bool, dict[str, Any]]:
    """Whether the row's answer is called good, and the row without what says so."""
    given = {name: row[name] for name in LABELS if row.get(name) not in (None, "")}
    if not given:
        raise RowError("missing_label", "the row has no label: expected label or kto_tag, true or false")
    found = {name: _GOOD.get(str(value).strip().lower()) for name, value in given.items()}
    if unknown := [name for name, good in found.items() if good is None]:
        value = shown(given[unknown[0]])
        raise RowError("wrong_label", f"{unknown[0]} is {value}, expected true (a good answer) or false")
    if len(set(found.values())) > 1:
        raise RowError("wrong_label", "label says one thing and kto_tag the other")
    return bool(found[next(iter(found))]), {k: v for k, v in row.items() if k not in LABELS}


def _compared(chosen: Messages, rejected: Messages) -> tuple[Messages, dict[str, Any]]:
    before, other = chosen[:-1], rejected[:-1]
    if before != other:
        pairs = enumerate(zip(before, other, strict=False), 1)
        number = next((n for n, (a, b) in pairs if a != b), min(len(before), len(other)) + 1)
        raise RowError(
            "different_prompts",
            f"chosen and rejected differ in message {number}, before their last one; expected two answers to "
            "one prompt",
        )
    if said(chosen[-1]).strip() == said(rejected[-1]).strip():
        raise RowError("no_preference", "chosen and rejected are the same answer")
    return chosen, rejected[-1]


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """The row with what OpenAI's `input` holds as fields of its own."""
    inner = row.get("input")
    if not isinstance(inner, Mapping):
        return row
    rest = {name: value for name, value in row.items() if name != "input"}
    if both := [name for name in inner if not says_nothing(name, rest.get(name))]:
        raise RowError("unsupported_field", f"the row has {both[0]} in input and beside it; keep one")
    return {**rest, **inner}


def _with_answer(rest: dict[str, Any], answer: Any) -> tuple[str, dict[str, Any]]:
    """A format that knows one answer, and the row that has this one there. Takes from `rest`."""
    if beside := [name for name in _ANSWERS if not says_nothing(name, rest.get(name))]:
        raise RowError("unsupported_field", f"the row has {beside[0]} beside the two answers; take it out")
    for name in _ANSWERS:
        rest.pop(name, None)
    if answer is None:
        raise RowError("missing_answer", "the row has no answer")
    if not isinstance(answer, str | list | Mapping):
        raise RowError("wrong_type", f"{shown(answer)}, expected a text or a list of messages")
    turns = [answer] if isinstance(answer, Mapping) else answer
    if isinstance(turns, str):
        dialogue = _dialogue(rest, turns)
        return _after_prompt(rest, turns) if dialogue is None else _listed(rest, dialogue)
    return _whole(rest, turns) if turns and not _is_answer(turns[0]) else _after_prompt(rest, turns)


def _whole(rest: dict[str, Any], turns: list[Any]) -> tuple[str, dict[str, Any]]:
    """A chat that holds its prompt; one that stands beside it has to be the same."""
    texts = [str(_text(turn)).strip() for turn in turns]
    for name in (*_PROMPTS, "input"):
        beside = rest.pop(name, None)
        if says_nothing(name, beside):
            continue
        if isinstance(beside, list):
            begin = min(len(beside), len(turns) - 1)
            same = beside[:begin] == turns[:begin]
        else:
            same = str(beside).strip() in texts
        if not same:
            raise RowError("different_prompts", f"{name} is not in the chat that the answer ends")
    return _listed(rest, turns)


def _after_prompt(rest: dict[str, Any], answer: str | list[Any]) -> tuple[str, dict[str, Any]]:
    """An answer alone, after the row's prompt."""
    given = [name for name in _PROMPTS if not says_nothing(name, rest.get(name))]
    if len(given) > 1:
        raise RowError("unsupported_field", f"the row has {given[0]} and {given[1]}; keep one as the prompt")
    name = given[0] if given else "input"
    if says_nothing(name, rest.get(name)):
        raise RowError(
            "missing_prompt",
            "the row has no prompt; expected prompt (a text or a list of messages), or the chat in each "
            "answer",
        )
    if name == "instruction":
        if not isinstance(answer, str):
            raise RowError("unsupported_field", "instruction goes with answers that are texts")
        return name, {**rest, "output": answer}
    prompt = rest.pop(name)
    if isinstance(prompt, list):
        return _listed(rest, [*prompt, *(_spoken(answer, prompt) if isinstance(answer, str) else answer)])
    if isinstance(answer, str):
        return "prompt-completion", {**rest, "prompt": prompt, "completion": answer}
    return _listed(rest, [{"role": "user", "content": prompt}, *answer])


def _dialogue(rest: dict[str, Any], answer: str) -> list[Any] | None:
    """The turns of a dialogue that is one text, None where it is not; takes its prompt from `rest`."""
    prompt = rest.get("prompt")
    asked = prompt.strip() if isinstance(prompt, str) else ""
    others = [name for name in _PROMPTS[1:] if not says_nothing(name, rest.get(name))]
    text = answer.strip()
    if others or (prompt and not asked):
        return None
    if asked.startswith("Human:") and not text.startswith(asked):
        if not asked.endswith("Assistant:"):
            return None
        text = f"{asked} {text}"
    elif not (text.startswith("Human:") and text.startswith(asked)):
        return None
    rest.pop("prompt", None)
    pieces = _SPEAKER.split(text)
    spoken = zip(pieces[1::2], pieces[2::2], strict=True)
    return [{"role": _CALLED[speaker], "content": words.strip()} for speaker, words in spoken]


def _listed(rest: dict[str, Any], turns: list[Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(turns[0], Mapping) and "from" in turns[0]:
        return "sharegpt", {**rest, "conversations": turns}
    return "messages", {**rest, "messages": turns}


def _spoken(answer: str, before: Sequence[Any]) -> list[dict[str, str]]:
    """A text as the assistant's turn, in the style of the turns before."""
    if isinstance(before[0], Mapping) and "from" in before[0]:
        return [{"from": "gpt", "value": answer}]
    return [{"role": "assistant", "content": answer}]


def _is_answer(turn: Any) -> bool:
    return isinstance(turn, Mapping) and turn.get("role", turn.get("from")) in _ROLES


def _text(turn: Any) -> Any:
    return turn.get("content", turn.get("value")) if isinstance(turn, Mapping) else turn


def _first(row: Row, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in row), None)
