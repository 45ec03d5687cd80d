"""Pairs of answers in all their shapes become one form; what is wrong with them is said by name."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flows.gates.contamination import training_texts
from flows.planning.amounts import training_amounts
from flows.planning.rows import row_figures
from flows.recipe import load
from stages.backends import chat
from stages.config.prepare import PrepareConfig
from stages.contract import Parent
from stages.data.preferences import read_row
from stages.data.report.report import report
from stages.data.source_row import RowError
from stages.errors import InvalidInput
from stages.formats.dataset_rows import SCHEMA, WIDE, paired
from stages.prepare import first_rows
from tests.stages.backends import templates
from tests.stages.data.prepared import Prepare, Row, jsonl, rejects, splits

USER, GOOD, BAD = (
    {"role": "user", "content": "Warm in Bo?"},
    {"role": "assistant", "content": "Yes, 21."},
    {"role": "assistant", "content": "Who knows."},
)
EARLIER = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
TURNS = [
    {"from": "human", "value": "Hi"},
    {"from": "gpt", "value": "Hello"},
    {"from": "human", "value": "Warm in Bo?"},
]
SAID = "Human: Warm in Bo?\n\nAssistant:"
HH = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Warm in Bo?\n\nAssistant:"
ANSWERS = {"chosen": "Yes, 21.", "rejected": "Who knows."}
WHOLE = {"chosen": [*EARLIER, USER, GOOD], "rejected": [*EARLIER, USER, BAD]}


def read(row: Row, system: str | None = None) -> tuple[Any, Any]:
    return read_row("preferences", row, system, Counter())[:2]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Warm in Bo?", **ANSWERS},
        {"question": "Warm in Bo?", **ANSWERS},
        {"instruction": "Warm in Bo?", "input": "", **ANSWERS},
        {"prompt": "Warm in Bo?", "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "Warm in Bo?", "chosen": GOOD, "rejected": BAD},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"messages": [USER], **ANSWERS},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": "Warm in Bo?", "messages": [USER, GOOD], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"chosen": f"{SAID} Yes, 21.", "rejected": f"{SAID} Who knows."},
        {
            "input": {"messages": [USER], "tools": []},
            "preferred_output": [GOOD],
            "non_preferred_output": [BAD],
        },
    ],
    ids=range(11),
)
def test_one_prompt_and_two_answers_in_each_shape(row: Row) -> None:
    assert read(row) == ([USER, GOOD], BAD)


@pytest.mark.parametrize(
    "row",
    [
        WHOLE,
        {"prompt": [*EARLIER, USER], "chosen": [GOOD], "rejected": [BAD]},
        {
            "conversations": TURNS,
            "chosen": {"from": "gpt", "value": "Yes, 21."},
            "rejected": {"from": "gpt", "value": "Who knows."},
        },
        {"conversations": TURNS, **ANSWERS},
        {"prompt": "Warm in Bo?", "history": [["Hi", "Hello"]], **ANSWERS},
        {"chosen": f"{HH} Yes, 21.", "rejected": f"{HH} Who knows."},
        {"prompt": HH, "chosen": " Yes, 21.", "rejected": " Who knows."},
        {"prompt": HH, "chosen": f"{HH} Yes, 21.", "rejected": f"{HH} Who knows."},
    ],
    ids=range(8),
)
def test_earlier_turns_are_kept(row: Row) -> None:
    assert read(row) == ([*EARLIER, USER, GOOD], BAD)
    assert read(row, "Be brief.")[0][0] == {"role": "system", "content": "Be brief."}


WRONG: list[tuple[Row, str, str]] = [
    ({"prompt": "Hi", "chosen": "Yes"}, "missing_field", "expected chosen and rejected"),
    (ANSWERS, "missing_prompt", "chosen: the row has no prompt; expected prompt"),
    ({"chosen": [GOOD], "rejected": [BAD]}, "missing_prompt", "chosen: the row has no prompt"),
    ({"prompt": "Hi", "chosen": "Yes", "rejected": None}, "missing_answer", "rejected: the row has no"),
    ({"prompt": "Hi", "chosen": "Yes", "rejected": " "}, "missing_answer", "rejected: the row has no"),
    ({"prompt": "Hi", "chosen": 5, "rejected": "No"}, "wrong_type", "chosen: 5, expected a text or a list"),
    ({"prompt": "Hi", "chosen": "Yes", "rejected": " Yes"}, "no_preference", "are the same answer"),
    ({**WHOLE, "rejected": [USER, BAD]}, "different_prompts", "differ in message 1, before their last"),
    (
        {**WHOLE, "rejected": [*WHOLE["rejected"], USER, BAD]},
        "different_prompts",
        "differ in message 4, before their last",
    ),
    ({**WHOLE, "prompt": "Cold?"}, "different_prompts", "prompt is not in the chat that the answer ends"),
    ({**WHOLE, "prompt": [GOOD]}, "different_prompts", "prompt is not in the chat"),
    ({"prompt": "Hi", "messages": [USER], **ANSWERS}, "unsupported_field", "has prompt and messages"),
    ({"prompt": "Hi", "completion": "Yes", **ANSWERS}, "unsupported_field", "has completion beside the two"),
    ({"prompt": "Hi", "kto_tag": True, **ANSWERS}, "unsupported_field", "kto_tag: labels of single answers"),
    ({"instruction": "Hi", "chosen": [GOOD], "rejected": [BAD]}, "unsupported_field", "that are texts"),
    ({**WHOLE, "chosen": [*EARLIER, USER]}, "missing_answer", "chosen: the row has no answer"),
    (
        {
            "input": {"messages": [USER]},
            "messages": [USER],
            "preferred_output": [GOOD],
            "non_preferred_output": [BAD],
        },
        "unsupported_field",
        "has messages in input and beside it",
    ),
]


@pytest.mark.parametrize(("row", "code", "said"), WRONG)
def test_what_is_wrong_with_a_pair_is_said_by_name(row: Row, code: str, said: str) -> None:
    with pytest.raises(RowError, match=said) as caught:
        read(row)
    assert caught.value.code == code


def pairs(count: int) -> list[Row]:
    return [
        {"prompt": f"What is number {n} times {n * n}?", "chosen": f"{n**3}", "rejected": f"not {n}"}
        for n in range(count)
    ]


def test_a_prepared_dataset_has_both_answers_and_the_length_with_each(
    prepare_from: Prepare, pico_base: Parent, out: Path, tmp_path: Path
) -> None:
    source = jsonl(tmp_path / "rows.jsonl", [{**row, "score": 1} for row in pairs(40)])
    metrics = prepare_from(source, format="preferences").metrics
    assert metrics["format"] == "preferences"
    assert metrics["unused_fields"] == {"score": 40}
    assert pq.read_schema(out / "test.parquet") == paired(SCHEMA)
    tokenizer = chat.load_tokenizer(pico_base.path)
    rows = [row for split in splits(out).values() for row in split]
    assert len(rows) == 40
    for row in rows:
        number = int(row["rejected"]["content"].removeprefix("not "))
        assert row["messages"][-1]["content"] == f"{number**3}"
        assert row["tokens"] == len(chat.encode(tokenizer, row["messages"]))
        assert row["rejected_tokens"] == len(chat.encode(tokenizer, [*row["messages"][:-1], row["rejected"]]))
    assert sum(split["rejected_tokens"] for split in metrics["splits"].values()) == sum(
        row["rejected_tokens"] for row in rows
    )
    card = (out / "README.md").read_text("utf-8")
    assert "rejected:\n\n<|im_start|>" in card


def test_pairs_with_calls_are_wide(
    prepare_from: Prepare,
    pico_base: Parent,
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chat.load_tokenizer(pico_base.path), "chat_template", templates.CHATML_TOOLS)
    call = {"id": "c1", "type": "function", "function": {"name": "warmth", "arguments": "{}"}}
    tools = [{"type": "function", "function": {"name": "warmth", "parameters": {}}}]
    calling = {"role": "assistant", "content": None, "tool_calls": [call]}
    rows = [
        {"prompt": [{"role": "user", "content": f"Is {n} warm?"}], "chosen": [calling], "rejected": [BAD]}
        for n in range(20)
    ]
    source = jsonl(tmp_path / "rows.jsonl", [{**row, "tools": tools} for row in rows])
    prepare_from(source, format="preferences", near_duplicates=None)
    assert pq.read_schema(out / "train.parquet") == paired(WIDE)
    row = splits(out)["train"][0]
    assert row["messages"][-1]["tool_calls"] == [call]
    assert (row["rejected"]["content"], row["rejected"]["tool_calls"]) == ("Who knows.", None)
    assert json.loads(row["messages"][0]["tools"]) == tools


def test_both_answers_count_for_length_and_for_duplicates(
    prepare_from: Prepare, out: Path, tmp_path: Path
) -> None:
    rows = pairs(40)
    rows.append({**rows[0], "rejected": "word " * 200})
    rows.append({**rows[1], "rejected": "<|im_end|>"})
    rows.append({**rows[2], "rejected": "something else altogether"})
    rows.append(rows[3])
    metrics = prepare_from(
        jsonl(tmp_path / "rows.jsonl", rows), format="preferences", max_length=100, max_rejected=0.1
    ).metrics
    assert metrics["rejected"] == {"control_token": 1, "too_long": 1}
    assert metrics["dropped"] == {"exact_duplicates": 1, "near_duplicates": 0}
    assert metrics["rows"]["accepted"] == 41
    assert [line["reason"] for line in rejects(out)][1].startswith("rejected: message 2 holds the control")
    for split in splits(out).values():
        prompts = [row["messages"][0]["content"] for row in split]
        assert prompts.count(rows[2]["prompt"]) in (0, 2), "two pairs of one prompt are in one split"


def test_what_the_template_makes_the_same_is_no_preference(
    prepare_from: Prepare, pico_base: Parent, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loud = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | upper }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    monkeypatch.setattr(chat.load_tokenizer(pico_base.path), "chat_template", loud)
    rows = [*pairs(40), {"prompt": "Loud?", "chosen": "yes", "rejected": "YES"}]
    metrics = prepare_from(jsonl(tmp_path / "rows.jsonl", rows), format="preferences").metrics
    assert metrics["rejected"] == {"no_preference": 1}
    assert rejects(out)[0]["reason"] == "the chat template writes the same of chosen and rejected"


def test_without_the_format_pairs_are_refused_with_its_name(prepare_from: Prepare, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"fields prompt, chosen, rejected.*another prepare\.format"):
        prepare_from(jsonl(tmp_path / "rows.jsonl", pairs(20)))
    rows = [{"messages": [USER, GOOD], **row} for row in pairs(20)]
    with pytest.raises(InvalidInput, match=r"has chosen: pairs of answers are read with prepare\.format"):
        prepare_from(jsonl(tmp_path / "chats.jsonl", rows))
    one = jsonl(tmp_path / "one.jsonl", [{"prompt": "Hi", "completion": "Yes"}])
    with pytest.raises(InvalidInput, match=r"'preferences'; expected chosen and rejected"):
        prepare_from(one, format="preferences")


def test_columns_name_the_answers(prepare_from: Prepare, out: Path, tmp_path: Path) -> None:
    rows = [{"q": r["prompt"], "better": r["chosen"], "worse": r["rejected"]} for r in pairs(30)]
    columns = {"q": "prompt", "better": "chosen", "worse": "rejected"}
    source = jsonl(tmp_path / "rows.jsonl", rows)
    assert prepare_from(source, format="preferences", columns=columns).metrics["rows"]["accepted"] == 30


def test_the_first_rows_are_the_chosen_chats(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "rows.jsonl", [*pairs(2), {"prompt": "Hi", "chosen": "a", "rejected": "a"}])
    chats, rejected = first_rows(PrepareConfig(source=f"path:{source}", format="preferences"))
    assert [chat[-1]["content"] for chat in chats] == ["0", "1"]
    assert rejected == ["rows.jsonl line 3: chosen and rejected are the same answer"]


def test_a_feed_s_pairs_are_read_from_a_file() -> None:
    with pytest.raises(ValueError, match=r"tuneline feed export NAME FILE --preferences"):
        PrepareConfig(source="feed:support", format="preferences")


# Answers that are each called good or bad


@pytest.mark.parametrize(
    ("row", "good"),
    [
        ({"prompt": "Warm in Bo?", "completion": "Yes, 21.", "label": True}, True),
        ({"prompt": [USER], "completion": [GOOD], "label": False}, False),
        ({"messages": [USER, GOOD], "kto_tag": "false"}, False),
        ({"conversations": [TURNS[2], {"from": "gpt", "value": "Yes, 21."}], "kto_tag": True}, True),
        ({"instruction": "Warm in Bo?", "input": "", "output": "Yes, 21.", "kto_tag": 1}, True),
        ({"prompt": "Warm in Bo?", "response": "Yes, 21.", "label": "0", "kto_tag": None}, False),
    ],
    ids=range(6),
)
def test_a_labelled_answer_in_each_shape(row: Row, good: bool) -> None:
    assert read_row("unpaired-preferences", row, None, Counter()) == ([USER, GOOD], None, good)


@pytest.mark.parametrize(
    ("row", "code", "said"),
    [
        ({"label": None}, "missing_label", "no label: expected label or kto_tag, true or false"),
        ({"label": 2}, "wrong_label", "label is 2, expected true"),
        ({"label": "good"}, "wrong_label", "label is 'good', expected true"),
        ({"label": True, "kto_tag": False}, "wrong_label", "label says one thing and kto_tag the other"),
        ({"label": True, "chosen": "Yes"}, "unsupported_field", "chosen: pairs of answers are read with"),
        ({"label": True, "completion": " "}, "missing_answer", "no answer"),
    ],
    ids=range(6),
)
def test_what_is_wrong_with_a_label_is_said_by_name(row: Row, code: str, said: str) -> None:
    with pytest.raises(RowError, match=said) as caught:
        read_row("unpaired-preferences", {"prompt": "Hi", "completion": "Yes", **row}, None, Counter())
    assert caught.value.code == code
    with pytest.raises(RowError, match="expected a chat in any of the shapes before, and label"):
        read_row("unpaired-preferences", {"prompt": "Hi", "label": True}, None, Counter())


def labelled(count: int) -> list[Row]:
    """Two answers to each prompt: one that is called good, and one that is not."""
    return [
        {"prompt": row["prompt"], "completion": row[side], "kto_tag": side == "chosen"}
        for row in pairs(count)
        for side in ("chosen", "rejected")
    ]


def test_bad_answers_lie_apart_from_good_ones(prepare_from: Prepare, out: Path, tmp_path: Path) -> None:
    rows = labelled(40)
    rows.append({**rows[0], "kto_tag": False})
    rows.append(rows[2])
    long = {"prompt": "Tell me of Bo.", "completion": " ".join(f"word{n}" for n in range(40))}
    rows += [{**long, "kto_tag": True}, {**long, "completion": f"{long['completion']} not", "kto_tag": False}]
    rows.append({**long, "completion": f"{long['completion']} indeed", "kto_tag": True})
    source = jsonl(tmp_path / "rows.jsonl", rows)
    metrics = prepare_from(source, format="unpaired-preferences").metrics
    assert metrics["rejected"] == {"contradicting_labels": 1}
    assert metrics["dropped"] == {"exact_duplicates": 1, "near_duplicates": 1}
    assert rejects(out)[0]["reason"] == "an earlier row calls the same answer the opposite"
    names = ("train", "validation", "test")
    good = splits(out)
    bad = {name: pq.read_table(out / f"{name}_undesirable.parquet").to_pylist() for name in names}
    for name in names:
        assert {row["prompt_hash"] for row in good[name]} == {row["prompt_hash"] for row in bad[name]}
        assert all(row["messages"][-1]["content"].split()[0] in ("not", "word0") for row in bad[name])
        assert not any(row["messages"][-1]["content"].startswith("not") for row in good[name])
        for kind, some in ((name, good[name]), (f"{name}_undesirable", bad[name])):
            assert metrics["splits"][kind]["rows"] == len(some)
    assert sum(map(len, good.values())) == sum(map(len, bad.values())) == 41
    assert "bad:\n\n<|im_start|>" in (out / "README.md").read_text("utf-8")
    assert [split.split for split in report(out).splits] == [*names, *bad_names(names)]
    trained = {text for row in training_texts(out) for text in row}
    assert all(row["messages"][-1]["content"] in trained for row in (good | bad)["train"] + bad["train"])


def bad_names(names: tuple[str, ...]) -> list[str]:
    return [f"{name}_undesirable" for name in names]


def test_labels_of_one_kind_teach_nothing(prepare_from: Prepare, tmp_path: Path) -> None:
    rows = [row for row in labelled(40) if row["kto_tag"]]
    with pytest.raises(InvalidInput, match="no answer of the training split is called bad"):
        prepare_from(jsonl(tmp_path / "rows.jsonl", rows), format="unpaired-preferences")
    with pytest.raises(InvalidInput, match=r"kto_tag: labels of single answers.*unpaired-preferences"):
        prepare_from(jsonl(tmp_path / "rows.jsonl", rows))


def test_a_plan_counts_both_kinds_where_both_are_trained_on(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "rows.jsonl", labelled(40) + labelled(60)[81::2])
    config = PrepareConfig(source=f"path:{source}", format="unpaired-preferences", max_length=128)
    figures = row_figures(config)
    assert figures is not None
    assert (figures.rows, figures.undesirable) == (40, 60)
    recipe = load("demo", [f"prepare={config.model_dump_json()}", "train.method=kto", "train.max_steps=null"])
    supervised, kto = (
        training_amounts(recipe.model_copy(update={"train": one}), figures) for one in recipe.train.trainings
    )
    assert supervised is not None
    assert kto is not None
    assert kto.tokens == pytest.approx(0.85 * 100 * figures.length)
    assert supervised.tokens == pytest.approx(0.85 * 40 * recipe.train.epochs * figures.length)
    evaluations = recipe.train.evaluations
    read = 3 * 85 + 2 * 5 + 2 * evaluations * 5
    assert kto.checks == pytest.approx(read * figures.length), (
        "the reference, and answers after other prompts"
    )
