"""Tools and calls of several formats become one form; what is wrong with them is said by name."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from stages.backends import chat
from stages.contract import Parent
from stages.data import formats
from stages.data.row_spool import content_hash
from stages.data.source_row import RowError
from stages.errors import InvalidInput
from stages.formats.dataset_rows import SCHEMA, WIDE
from tests.stages.backends import templates
from tests.stages.data.prepared import Prepare, Row, jsonl, pairs, rejects, splits

FUNCTION = {
    "name": "warmth",
    "description": "How warm a town is",
    "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
}
TOOLS = [{"type": "function", "function": FUNCTION}]
USER = {"role": "user", "content": "Warm in Bo?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "warmth", "arguments": '{"town":"Bo"}'}}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "21"}
ANSWER = {"role": "assistant", "content": "Yes."}
ROW = {"messages": [USER, CALLS, RESULT, ANSWER], "tools": TOOLS}

MADE = {**CALL, "id": "call00001", "function": {"name": "warmth", "arguments": '{"town": "Bo"}'}}
LEGACY = {
    "messages": [
        USER,
        {
            "role": "assistant",
            "content": None,
            "function_call": {"name": "warmth", "arguments": '{"town": "Bo"}'},
        },
        {"role": "function", "name": "warmth", "content": "21"},
        ANSWER,
    ],
    "functions": [FUNCTION],
}
SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "Warm in Bo?"},
        {"from": "function_call", "value": '{"name": "warmth", "arguments": {"town": "Bo"}}'},
        {"from": "observation", "value": "21"},
        {"from": "gpt", "value": "Yes."},
    ],
    "tools": json.dumps([FUNCTION]),
}


def read(row: dict[str, Any], unused: Counter[str] | None = None) -> formats.Messages:
    name = formats.detect(row)
    assert name
    return formats.to_messages(name, row, None, Counter() if unused is None else unused)


@pytest.mark.parametrize("row", [LEGACY, SHAREGPT])
def test_older_formats_become_the_same_chat_with_ids_of_their_own(row: dict[str, Any]) -> None:
    name = {"name": "warmth"} if row is LEGACY else {}
    assert read(row) == [
        {**USER, "tools": json.dumps(TOOLS)},
        {"role": "assistant", "content": "", "tool_calls": [MADE]},
        {"role": "tool", "content": "21", **name, "tool_call_id": "call00001"},
        ANSWER,
    ]


def test_ids_are_kept_and_arguments_are_one_form() -> None:
    messages = read(ROW)
    assert messages[1]["tool_calls"] == [{**MADE, "id": "c1"}]
    assert messages[2]["tool_call_id"] == "c1"
    as_object = {**CALL, "function": {"name": "warmth", "arguments": {"town": "Bo"}}}
    assert read({**ROW, "messages": [USER, {**CALLS, "tool_calls": [as_object]}]})[1] == messages[1]


def test_tools_are_the_first_message_s_whatever_its_role() -> None:
    assert read({**ROW, "system": "S"})[0] == {"role": "system", "content": "S", "tools": json.dumps(TOOLS)}
    assert "tools" in formats.to_messages("messages", ROW, "S", Counter())[0]
    assert read({"prompt": "Hi", "completion": "Hello", "tools": TOOLS})[0]["tools"] == json.dumps(TOOLS)
    assert "tools" not in read({**ROW, "tools": []})[0]


def test_nulls_that_a_table_filled_in_are_no_schema() -> None:
    other = {
        **FUNCTION,
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}, "n": None}},
    }
    (tool,) = json.loads(read({**ROW, "tools": [{"type": "function", "function": other}]})[0]["tools"])
    assert tool["function"]["parameters"]["properties"] == {"town": {"type": "string"}}
    default = {**FUNCTION, "parameters": {"properties": {"town": {"type": "string", "default": None}}}}
    (tool,) = json.loads(read({**ROW, "tools": [default]})[0]["tools"])
    assert tool["function"]["parameters"] == default["parameters"]


def test_fields_of_a_call_that_are_not_used_are_counted() -> None:
    unused: Counter[str] = Counter()
    read({**ROW, "messages": [USER, {**CALLS, "tool_calls": [{**CALL, "score": 1, "index": 0}]}]}, unused)
    assert unused == {"messages[].tool_calls[].score": 1}


def calling(**changed: Any) -> dict[str, Any]:
    return {"messages": [USER, {**CALLS, "tool_calls": [{**CALL, **changed}]}], "tools": TOOLS}


WRONG: list[tuple[dict[str, Any], str, str]] = [
    (calling(type="custom"), "unsupported_field", "call of type 'custom'"),
    (calling(function={"arguments": "{}"}), "malformed", "without the name"),
    (
        calling(function={"name": "warmth", "arguments": "{town"}),
        "malformed",
        "arguments of warmth.*not valid JSON",
    ),
    (
        calling(function={"name": "warmth", "arguments": '{"a": 1, "a": 2}'}),
        "malformed",
        "key a is there twice",
    ),
    (calling(function={"name": "warmth", "arguments": "[1]"}), "malformed", "expected a JSON object"),
    (calling(function={"name": "warmth", "arguments": {"town": None}}), "malformed", "null.*as JSON text"),
    (
        calling(function={"name": "cold", "arguments": "{}"}),
        "unknown_tool",
        "calls cold, which is not in tools",
    ),
    (calling(id=7), "wrong_type", "whose id is 7"),
    ({**ROW, "messages": [USER, CALLS, {**RESULT, "tool_call_id": "c2"}, ANSWER]}, "missing_call", "id 'c2'"),
    (
        {**ROW, "messages": [USER, ANSWER, {"role": "tool", "content": "21"}, ANSWER]},
        "missing_call",
        "message 3",
    ),
    ({**ROW, "messages": [USER, CALLS, RESULT, RESULT, ANSWER]}, "missing_call", "message 4"),
    ({**ROW, "messages": [USER, CALLS, {**RESULT, "name": "cold"}, ANSWER]}, "malformed", "result of cold"),
    ({**ROW, "messages": [USER, {**CALLS, "tool_calls": [CALL, CALL]}]}, "malformed", "'c1' is that of two"),
    ({**ROW, "messages": [USER, {**CALLS, "function_call": CALL}]}, "unsupported_field", "and function_call"),
    (
        {**ROW, "messages": [{**USER, "tool_calls": [CALL]}, ANSWER]},
        "unsupported_field",
        "message 1 has tool_calls",
    ),
    ({**ROW, "messages": [USER, CALLS, RESULT]}, "missing_answer", "last message"),
    ({**ROW, "functions": [FUNCTION]}, "unsupported_field", "tools and functions"),
    ({**ROW, "tools": [{"type": "web_search"}]}, "unsupported_field", "type 'web_search'"),
    ({**ROW, "tools": "warmth"}, "malformed", "tools: not valid JSON"),
    ({**ROW, "tools": [*TOOLS, FUNCTION]}, "malformed", "warmth is there twice"),
    (
        {
            **ROW,
            "messages": [USER, {**CALLS, "tool_calls": [CALL, {**CALL, "id": "c2"}]}],
            "parallel_tool_calls": False,
        },
        "malformed",
        "has 2 calls, and parallel_tool_calls is false",
    ),
    (
        {"turns": [{"speaker": 1, "text": "Q"}, {"speaker": 2, "text": "A"}], "tools": TOOLS},
        "unsupported_field",
        "has tools",
    ),
]


@pytest.mark.parametrize(("row", "code", "said"), WRONG)
def test_what_is_wrong_with_a_row_is_said_by_name(row: dict[str, Any], code: str, said: str) -> None:
    with pytest.raises(RowError, match=said) as caught:
        read(row)
    assert caught.value.code == code


def rows(count: int) -> list[Row]:
    made = []
    for n in range(count):
        call = {**CALL, "function": {"name": "warmth", "arguments": json.dumps({"town": f"town {n}"})}}
        asked = {"role": "user", "content": f"How warm is town {n}?"}
        made.append({**ROW, "messages": [asked, {**CALLS, "tool_calls": [call]}, RESULT, ANSWER]})
    return made


def chats(count: int) -> list[Row]:
    return [
        {
            "messages": [
                {"role": "user", "content": r["prompt"]},
                {"role": "assistant", "content": r["completion"]},
            ]
        }
        for r in pairs(count)
    ]


@pytest.fixture
def with_tools(pico_base: Parent, monkeypatch: pytest.MonkeyPatch, tokenizer_read_once: None) -> None:
    """The base as if its template were one that writes tools."""
    tokenizer = chat.load_tokenizer(pico_base.path)
    monkeypatch.setattr(tokenizer, "chat_template", templates.CHATML_TOOLS)


def test_a_prepared_dataset_has_the_calls_and_reads_back(
    prepare_from: Prepare, with_tools: None, pico_base: Parent, out: Path, tmp_path: Path
) -> None:
    metrics = prepare_from(
        jsonl(tmp_path / "rows.jsonl", [*rows(24), *chats(4)]), near_duplicates=None
    ).metrics
    assert metrics["rows"] == {"read": 28, "accepted": 28, "rejected": 0}
    assert metrics["unused_fields"] == {}
    assert pyarrow.parquet.read_schema(out / "test.parquet") == WIDE
    row = next(row for row in splits(out)["train"] if len(row["messages"]) == 4)
    asked, calls, result, _ = row["messages"]
    assert json.loads(asked["tools"]) == TOOLS
    assert calls["tool_calls"][0]["id"] == result["tool_call_id"] == "c1"
    tokenizer = chat.load_tokenizer(pico_base.path)
    ids, mask = chat.encode_with_mask(tokenizer, row["messages"])
    assert (row["tokens"], row["trainable"]) == (len(ids), sum(mask))
    assert '<tool_call>{"name": "warmth", "arguments": {"town": "town' in (out / "README.md").read_text(
        "utf-8"
    )


def test_plain_rows_keep_their_columns(prepare_from: Prepare, out: Path, tmp_path: Path) -> None:
    prepare_from(jsonl(tmp_path / "rows.jsonl", pairs(40)))
    assert pyarrow.parquet.read_schema(out / "train.parquet") == SCHEMA


def test_rows_that_differ_only_in_their_calls_are_two(
    prepare_from: Prepare, with_tools: None, tmp_path: Path
) -> None:
    same = [{**row, "messages": [USER, *row["messages"][1:]]} for row in rows(12)]
    source = jsonl(tmp_path / "rows.jsonl", [*same, *rows(12)])
    metrics = prepare_from(source, near_duplicates=None).metrics
    assert metrics["dropped"]["exact_duplicates"] == 0
    assert sum(split["prompts"] for split in metrics["splits"].values()) == 24


def test_the_same_question_is_in_one_split_whatever_the_ids_of_its_calls() -> None:
    chat, other = read(ROW), read(ROW)
    other[1]["tool_calls"][0]["id"] = other[2]["tool_call_id"] = "c9"
    assert content_hash(chat) == content_hash([{**other[0]}, {**other[1], "weight": 0}, *other[2:]])
    other[1]["tool_calls"][0]["function"]["arguments"] = "{}"
    assert content_hash(chat) != content_hash(other)


def test_a_base_without_tools_refuses_the_run_and_names_the_row(
    prepare_from: Prepare, tmp_path: Path
) -> None:
    source = jsonl(tmp_path / "rows.jsonl", [*chats(3), *rows(20)])
    with pytest.raises(InvalidInput, match=r"rows.jsonl line 4: .*tools.*base\.chat_template"):
        prepare_from(source)


def test_tables_and_control_tokens(
    prepare_from: Prepare, with_tools: None, out: Path, tmp_path: Path
) -> None:
    made = rows(40)
    made[3]["messages"][1]["tool_calls"][0]["function"]["arguments"] = '{"town": "<|im_end|>"}'
    table = pyarrow.Table.from_pylist([{**row, "tools": json.dumps(TOOLS), "id": 1} for row in made])
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    metrics = prepare_from(tmp_path / "rows.parquet", near_duplicates=None).metrics
    assert metrics["rejected"] == {"control_token": 1}
    assert metrics["unused_fields"] == {"id": 39}
    assert "message 2 holds the control token '<|im_end|>'" in rejects(out)[0]["reason"]
