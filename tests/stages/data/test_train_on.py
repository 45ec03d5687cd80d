"""Which answers of a chat are learned: all, the last one, or by their weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stages.backends import chat
from stages.config.prepare import PrepareConfig
from stages.contract import Parent
from stages.data import formats
from stages.data.source_row import RowError
from tests.stages.backends import templates
from tests.stages.data.prepared import Prepare, Row, jsonl, splits


def turns(number: int, weight: Any = None) -> Row:
    weighed = {} if weight is None else {"weight": weight}
    return {
        "messages": [
            {"role": "user", "content": f"What is {number}?"},
            {"role": "assistant", "content": f"Number {number}.", **weighed},
            {"role": "user", "content": "And its square?"},
            {"role": "assistant", "content": f"It is {number**2}.", "weight": 1},
        ]
    }


def learned(tokenizer: Any, messages: list[dict[str, Any]]) -> str:
    ids, mask = chat.encode_with_mask(tokenizer, messages)
    return str(tokenizer.decode([token for token, on in zip(ids, mask, strict=True) if on]))


@pytest.mark.parametrize(
    ("train_on", "weight"), [("last", None), ("last", 1), ("weight", 0), ("weight", "0")]
)
def test_a_turn_that_is_not_trained_is_read_only(
    prepare_from: Prepare, pico_base: Parent, out: Path, tmp_path: Path, train_on: str, weight: Any
) -> None:
    source = jsonl(tmp_path / "rows.jsonl", [turns(n, weight) for n in range(20)])
    prepare_from(source, train_on=train_on, near_duplicates=None)
    row = splits(out)["train"][0]
    assert [m["weight"] for m in row["messages"]] == [None, 0, None, None]
    tokenizer = chat.load_tokenizer(pico_base.path)
    assert learned(tokenizer, row["messages"]) == row["messages"][-1]["content"] + "<|im_end|>"
    assert row["trainable"] == sum(chat.encode_with_mask(tokenizer, row["messages"])[1])


def test_by_weight_all_are_learned_that_have_none(prepare_from: Prepare, out: Path, tmp_path: Path) -> None:
    prepare_from(
        jsonl(tmp_path / "rows.jsonl", [turns(n) for n in range(20)]), train_on="weight", near_duplicates=None
    )
    assert set(splits(out)["train"][0]["messages"][1]) == {"role", "content"}


def test_a_chat_of_one_answer_is_the_same_whichever_is_learned(
    prepare_from: Prepare, out: Path, tmp_path: Path
) -> None:
    rows = [{"messages": turns(n)["messages"][:2]} for n in range(20)]
    prepare_from(jsonl(tmp_path / "rows.jsonl", rows), train_on="last", near_duplicates=None)
    assert set(splits(out)["train"][0]["messages"][1]) == {"role", "content"}


@pytest.mark.parametrize(
    ("row", "train_on", "said"),
    [
        (turns(1, 0), "all", r"message 2 has weight: prepare.train_on is not weight"),
        (turns(1, 0), "last", r"message 2 has weight: prepare.train_on is not weight"),
        (turns(1, 0.5), "weight", r"message 2 has weight: 0.5, expected 0 or 1"),
        (
            {"messages": [*turns(1)["messages"][:3], {"role": "assistant", "content": "A", "weight": 0}]},
            "weight",
            "last",
        ),
        (
            {"messages": [{"role": "user", "content": "Q", "weight": 0}, turns(1)["messages"][1]]},
            "weight",
            "1 has weight",
        ),
    ],
)
def test_weights_that_are_not_used_refuse_the_row(row: Row, train_on: Any, said: str) -> None:
    with pytest.raises(RowError, match=said):
        formats.to_messages("messages", row, None, Counter(), train_on)


def test_a_template_that_marks_answers_leaves_out_the_right_one(pico_base: Parent) -> None:
    tokenizer = chat.load_tokenizer(pico_base.path)
    tokenizer.chat_template = templates.UNMARKED_CALLS
    messages = formats.to_messages("messages", turns(3, 0), None, Counter(), "weight")
    assert learned(tokenizer, messages) == "It is 9.<|im_end|>"


def test_recipes_that_do_not_choose_keep_their_keys() -> None:
    assert "train_on" not in PrepareConfig(source="path:x").model_dump(mode="json")
    assert PrepareConfig(source="path:x", train_on="last").model_dump(mode="json")["train_on"] == "last"
