from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from stages.data import formats
from stages.data.formats import detect
from stages.data.source_row import RowError

CHAT = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
PAIR = {"prompt": "Q", "completion": "A"}
SHAPES: list[tuple[str, dict[str, Any]]] = [
    ("messages", {"messages": CHAT}),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, CHAT[1]]}),
    ("sharegpt", {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}),
    ("instruction", {"instruction": "Q", "input": "", "output": "A"}),
    ("instruction", {"instruction": "Q", "output": "A"}),
    ("instruction", {"instruction": "Q", "context": "", "response": "A", "history": [], "system": None}),
    ("prompt-completion", {"prompt": "Q", "completion": "A"}),
    ("prompt-completion", {"question": "Q", "answer": "A", "id": 3}),
    ("prompt-completion", {"prompt": [CHAT[0]], "completion": [CHAT[1]]}),
    ("dialogue", {"messages": [[{"sender": "x", "text": "Q"}], [{"sender": "y", "text": "A"}]]}),
    ("dialogue", {"turns": [{"speaker": 1, "content": "Q"}, {"speaker": 2, "content": "A"}]}),
]


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


def to_messages(name: str, row: dict[str, Any], system: str | None) -> formats.Messages:
    return formats.to_messages(name, row, system, Counter())


@pytest.mark.parametrize(("name", "row"), SHAPES)
def test_each_shape_is_detected_and_becomes_the_same_chat(name: str, row: dict[str, Any]) -> None:
    assert detect(row) == name
    assert to_messages(name, row, None) == CHAT


def test_an_unknown_shape_is_not_guessed() -> None:
    assert detect({"text": "Q", "label": 1}) is None


def test_the_input_of_an_instruction_follows_it() -> None:
    messages = to_messages("instruction", {"instruction": "Add.", "input": "1 2", "output": "3"}, None)
    assert messages[0]["content"] == "Add.\n\n1 2"


def test_the_context_of_an_instruction_is_its_input() -> None:
    row = {"instruction": "Add.", "context": "1 2", "response": "3"}
    assert to_messages("instruction", row, None)[0]["content"] == "Add.\n\n1 2"
    brackets = {"instruction": "Count the items.", "input": "[]", "output": "None."}
    assert to_messages("instruction", brackets, None)[0]["content"] == "Count the items.\n\n[]"


@pytest.mark.parametrize("row", [{"instruction": "Q", "output": "A"}, PAIR])
def test_the_history_of_a_row_comes_before_it(row: dict[str, Any]) -> None:
    name = detect(row)
    assert name
    messages = to_messages(name, {**row, "history": [["Q1", "A1"], ("Q2", "A2")], "system": "S"}, None)
    assert [m["content"] for m in messages] == ["S", "Q1", "A1", "Q2", "A2", "Q", "A"]
    assert [m["role"] for m in messages] == ["system", *["user", "assistant"] * 3]


@pytest.mark.parametrize("history", ["Q1", [["Q1"]], [{"role": "user", "content": "Q1"}], {"Q1": "A1"}, 3])
def test_a_history_of_another_kind_is_refused_by_name(history: Any) -> None:
    with pytest.raises(RowError, match="history") as caught:
        to_messages("prompt-completion", {**PAIR, "history": history}, None)
    assert caught.value.code == "unsupported_field"


@pytest.mark.parametrize("name", ["messages", "sharegpt", "dialogue"])
def test_the_system_text_of_a_row_is_used_in_every_format(name: str) -> None:
    row = next(row for shape, row in SHAPES if shape == name)
    assert to_messages(name, {**row, "system": "S"}, None) == [{"role": "system", "content": "S"}, *CHAT]


@pytest.mark.parametrize(
    "field",
    [
        {"tool_calls": [{"id": "1"}]}, {"function_call": {"name": "f"}},
        {"images": ["a.png"]}, {"rejected": "B"}, {"kto_tag": False}, {"kto_tag": True},
        {"label": False}, {"label": True}, {"label": "False"}, {"weight": 0}, {"weight": "0.5"},
        {"reasoning": "because"}, {"context": "C"}, {"input": "C"}, {"documents": [{"text": "D"}]},
        {"chat_template_kwargs": {"thinking": True}},
    ],
)  # fmt: skip
def test_a_field_of_a_row_that_means_something_is_refused_by_name(field: dict[str, Any]) -> None:
    name = list(field)[-1]
    with pytest.raises(RowError, match=f"the row has {name}: ") as caught:
        to_messages("prompt-completion", {**PAIR, **field}, None)
    assert caught.value.code == "unsupported_field"


@pytest.mark.parametrize(
    "field",
    [
        {"tool_call_id": "1"}, {"weight": 0}, {"train": False}, {"loss": 0}, {"name": "Ann"},
        {"prefix": True}, {"images": ["a.png"]},
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["messages", "sharegpt", "dialogue", "prompt-completion"])
def test_a_field_of_a_message_that_means_something_is_refused_by_name(
    name: str, field: dict[str, Any]
) -> None:
    said, told, key = {
        "messages": ("role", "content", "messages"), "sharegpt": ("from", "value", "conversations"),
        "dialogue": ("sender", "text", "turns"), "prompt-completion": ("role", "content", ""),
    }[name]  # fmt: skip
    turns = [{said: "user", told: "Q"}, {said: "assistant", told: "A", **field}]
    row = {key: turns} if key else {"prompt": turns[:1], "completion": turns[1:]}
    with pytest.raises(RowError, match=f" has {next(iter(field))}: ") as caught:
        to_messages(name, row, None)
    assert caught.value.code == "unsupported_field"


@pytest.mark.parametrize("label", [0, 1, "positive", 2.5, [True]])
def test_the_label_of_a_class_is_not_used(label: Any) -> None:
    unused: Counter[str] = Counter()
    assert formats.to_messages("prompt-completion", {**PAIR, "label": label}, None, unused) == CHAT
    assert unused == {"label": 1}


def test_a_field_that_says_nothing_does_no_harm() -> None:
    empty = {"tools": [], "images": None, "weight": 1, "rejected": "", "reasoning": " ", "history": "[]"}
    assert to_messages("prompt-completion", {**PAIR, **empty}, None) == CHAT
    turn = {
        "tool_calls": None,
        "function_call": None,
        "weight": 1.0,
        "train": True,
        "prefix": False,
        "name": "",
    }
    assert to_messages("messages", {"messages": [{**CHAT[0], **turn}, {**CHAT[1], **turn}]}, None) == CHAT


def test_other_fields_are_counted_where_they_say_something() -> None:
    unused: Counter[str] = Counter()
    row = {"messages": [{**CHAT[0], "at": 3}, {**CHAT[1], "at": None}], "id": "7", "tags": [], "a\nb": 1}
    assert formats.to_messages("messages", row, None, unused) == CHAT
    assert unused == {"messages[].at": 1, "id": 1, "'a\\nb'": 1}


def test_a_picture_in_a_message_is_refused_by_its_type() -> None:
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": "x"}}]
    with pytest.raises(RowError, match="a part of type 'image_url': only text is trained"):
        to_messages("messages", {"messages": [{"role": "user", "content": parts}, CHAT[1]]}, None)


def test_the_system_message_is_put_before_rows_that_have_none() -> None:
    own = {"messages": [{"role": "system", "content": "Own."}, *CHAT]}
    blank = {"messages": [{"role": "system", "content": " "}, *CHAT]}
    assert to_messages("messages", {"messages": CHAT}, "S")[0] == {"role": "system", "content": "S"}
    assert to_messages("messages", own, "S")[0]["content"] == "Own."
    assert to_messages("messages", blank, None) == CHAT


def test_a_dialogue_joins_what_one_says_and_ends_with_the_last_answer() -> None:
    said = [("x", "Hi"), ("x", "there"), ("y", "Hello"), ("x", "Bye")]
    row = {"messages": [{"sender": sender, "text": text} for sender, text in said]}
    assert to_messages("dialogue", row, None) == [
        {"role": "user", "content": "Hi\nthere"},
        {"role": "assistant", "content": "Hello"},
    ]


@pytest.mark.parametrize(
    ("name", "row", "code"),
    [
        ("messages", {"messages": CHAT[:1]}, "missing_answer"),
        ("messages", {"messages": [CHAT[0], {"role": "assistant", "content": " "}]}, "missing_answer"),
        ("messages", {"messages": CHAT[1:]}, "missing_prompt"),
        ("messages", {"messages": []}, "missing_prompt"),
        ("messages", {"messages": "Q"}, "wrong_type"),
        ("messages", {}, "wrong_type"),
        ("messages", {"messages": [*CHAT, "more"]}, "wrong_type"),
        ("messages", {"messages": [{"role": "tool", "content": "x"}, *CHAT]}, "missing_prompt"),
        ("messages", {"messages": [{"role": ["user"], "content": "x"}, *CHAT]}, "unsupported_role"),
        ("messages", {"messages": [{"role": nested(3000), "content": "x"}, *CHAT]}, "unsupported_role"),
        ("messages", {"messages": CHAT, "system": 3}, "wrong_type"),
        ("instruction", {"instruction": "Q", "input": {"a": 1}, "output": "A"}, "wrong_type"),
        (
            "instruction",
            {"instruction": "Q", "input": "1", "context": "2", "output": "A"},
            "unsupported_field",
        ),
        ("dialogue", {"turns": [{"speaker": ["x"], "text": "x"}]}, "wrong_type"),
        (
            "messages",
            {"messages": [CHAT[0], {"role": "system", "content": "x"}, CHAT[1]]},
            "unsupported_role",
        ),
        ("messages", {"messages": [{"role": "user", "content": ""}, CHAT[1]]}, "empty_message"),
        ("messages", {"messages": [{"role": "user", "content": "\ud800"}, CHAT[1]]}, "malformed"),
        ("messages", {"messages": [CHAT[0], {"role": "assistant", "content": None}]}, "wrong_type"),
        ("prompt-completion", {"prompt": "Q", "completion": None}, "missing_answer"),
        ("prompt-completion", {"prompt": "Q", "completion": ""}, "missing_answer"),
        ("prompt-completion", {"prompt": "Q"}, "missing_field"),
        ("prompt-completion", {"prompt": "Q", "completion": 3}, "wrong_type"),
        ("instruction", {"instruction": "Q"}, "missing_answer"),
        ("dialogue", {"turns": [{"speaker": n, "text": "x"} for n in range(3)]}, "unsupported_role"),
        ("dialogue", {"turns": [{"speaker": 1, "text": "x"}]}, "missing_answer"),
    ],
)
def test_a_bad_row_is_named_by_its_cause(name: str, row: dict[str, Any], code: str) -> None:
    with pytest.raises(RowError) as caught:
        to_messages(name, row, None)
    assert caught.value.code == code
    assert len(str(caught.value)) < 300
