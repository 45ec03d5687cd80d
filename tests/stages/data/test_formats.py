from __future__ import annotations

from typing import Any

import pytest

from stages.data.formats import detect, to_messages
from stages.data.record import RowError

CHAT = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
SHAPES: list[tuple[str, dict[str, Any]]] = [
    ("messages", {"messages": CHAT}),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, CHAT[1]]}),
    ("sharegpt", {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}),
    ("instruction", {"instruction": "Q", "input": "", "output": "A"}),
    ("instruction", {"instruction": "Q", "output": "A"}),
    ("prompt-completion", {"prompt": "Q", "completion": "A"}),
    ("prompt-completion", {"question": "Q", "answer": "A", "id": 3}),
    ("prompt-completion", {"prompt": [CHAT[0]], "completion": [CHAT[1]]}),
    ("dialogue", {"messages": [[{"sender": "x", "text": "Q"}], [{"sender": "y", "text": "A"}]]}),
    ("dialogue", {"turns": [{"speaker": 1, "content": "Q"}, {"speaker": 2, "content": "A"}]}),
]


@pytest.mark.parametrize(("name", "row"), SHAPES)
def test_each_shape_is_detected_and_becomes_the_same_chat(name: str, row: dict[str, Any]) -> None:
    assert detect(row) == name
    assert to_messages(name, row, None) == CHAT


def test_an_unknown_shape_is_not_guessed() -> None:
    assert detect({"text": "Q", "label": 1}) is None


def test_the_input_of_an_instruction_follows_it() -> None:
    messages = to_messages("instruction", {"instruction": "Add.", "input": "1 2", "output": "3"}, None)
    assert messages[0]["content"] == "Add.\n\n1 2"


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
        ("messages", {"messages": [{"role": "tool", "content": "x"}, *CHAT]}, "unsupported_role"),
        ("messages", {"messages": [{"role": ["user"], "content": "x"}, *CHAT]}, "unsupported_role"),
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
