"""What of a row is kept beside its chat: further right answers, and columns to slice by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from pydantic import ValidationError

from registry.evaluation_results import read_items
from stages.backends import chat
from stages.backends.evaluate.lm_eval_tasks import run_task
from stages.config.evaluate import HeldoutTask
from stages.config.prepare import PrepareConfig
from stages.contract import Parent
from stages.data.chats.kept import other_answers
from stages.data.source_row import RowError
from stages.errors import InvalidInput
from stages.prepare import first_rows
from tests.stages.backends.evaluate.test_heldout import Parrot
from tests.stages.data.prepared import Prepare, Row, jsonl, pairs, rejects, splits

ASKED = {"question": "q", "answer": "a"}
PROMPTED = {"prompt": "q", "completion": "a"}
TOLD = {"instruction": "q", "output": "a"}
OTHERS: dict[str, tuple[Row, Row, tuple[str, ...]]] = {
    "a list in the answer's place": ({**PROMPTED, "completion": ["a", "b", "b"]}, PROMPTED, ("b",)),
    "references": ({**ASKED, "references": ["a", "b"]}, ASKED, ("b",)),
    "one reference": ({**TOLD, "references": "b"}, TOLD, ("b",)),
    "a cell of a CSV file": ({**PROMPTED, "references": '["b", "c"]'}, PROMPTED, ("b", "c")),
    "SQuAD": ({"question": "q", "answers": {"text": ["a", "b"], "answer_start": [1, 2]}}, ASKED, ("b",)),
    "TriviaQA": ({"question": "q", "answer": {"value": "a", "aliases": ["b", "a"]}}, ASKED, ("b",)),
    "answers after an instruction": ({"instruction": "q", "answers": ["a", "b"]}, TOLD, ("b",)),
    "answers beside a chat": ({"messages": [], "answers": ["a"]}, {"messages": []}, ("a",)),
    "one answer": (PROMPTED, PROMPTED, ()),
    "nothing in it": ({**PROMPTED, "references": []}, PROMPTED, ()),
    "a list of messages": ({"prompt": [], "completion": [{}]}, {"prompt": [], "completion": [{}]}, ()),
}


@pytest.mark.parametrize("name", OTHERS)
def test_further_right_answers_are_found_where_people_keep_them(name: str) -> None:
    row, rest, further = OTHERS[name]
    assert other_answers(row) == (rest, further)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"references": [1]}, r"references is \[1\], expected a list of texts"),
        ({"references": ["a", " "]}, r"references holds no text, or an empty one"),
        ({"question": "q", "answers": {"text": [], "answer_start": []}}, r"answers holds no text"),
        ({"question": "q", "answers": {"span": 3}}, r"answers is null, expected a list of texts"),
    ],
)
def test_what_is_no_list_of_texts_is_refused_by_name(row: Row, message: str) -> None:
    with pytest.raises(RowError, match=message):
        other_answers(row)


def with_columns(count: int) -> list[Row]:
    rows: list[Row] = [
        {**row, "topic": ("billing", "travel")[k % 2], "paid": k < 3} for k, row in enumerate(pairs(count))
    ]
    for row in rows[::5]:
        row["references"] = [f"{row['completion']} indeed"]
    rows[1]["topic"] = None
    return rows


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_answers_and_columns_are_kept_from_the_source_to_the_samples(
    prepare_from: Prepare, out: Path, tmp_path: Path, pico_base: Parent, suffix: str
) -> None:
    source, rows = tmp_path / f"rows{suffix}", with_columns(40)
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), source)
    else:
        jsonl(source, rows)
    split = {"validation": 0.0, "test": 0.5}
    metrics = prepare_from(source, slices=["topic", "paid"], split=split).metrics
    assert metrics["references"] == 8
    assert metrics["slices"]["topic"] == {"travel": 19, "billing": 20}
    assert metrics["slices"]["paid"] == {"true": 3, "false": 37}
    assert metrics["unused_fields"] == {}
    test = splits(out)["test"]
    heldout = next(row for row in test if row["references"])
    assert heldout["references"] == [f"{heldout['messages'][-1]['content']} indeed"]
    assert json.loads(heldout["slices"])["topic"] in ("billing", "travel")

    tokenizer: Any = chat.load_tokenizer(pico_base.path)
    said = [
        [*row["messages"][:-1], {"role": "assistant", "content": (row["references"] or ["?"])[0]}]
        for row in test
    ]
    data = Parent(id="0" * 64, kind="dataset", path=out)
    task = HeldoutTask.model_validate({"max_new_tokens": 64, "metrics": ["exact", "bleu", "normalized"]})
    (tmp_path / "found").mkdir()
    found = run_task(Parrot(tokenizer, said), task, data, 0, tmp_path / "found")
    items = read_items(tmp_path / "found", found)
    assert [item["scores"]["exact_match"] for item in items] == [
        float(bool(row["references"])) for row in test
    ]
    several = next(item for item in items if "references" in item)
    assert several["references"] == [several["target"], f"{several['target']} indeed"]
    assert several["counts"]["bleu"][0] == several["counts"]["bleu"][1], "BLEU reads all references"
    assert [item["slices"] for item in items] == [json.loads(row["slices"]) for row in test]


def test_what_cannot_be_kept_is_refused_by_name(prepare_from: Prepare, out: Path, tmp_path: Path) -> None:
    source = jsonl(tmp_path / "rows.jsonl", with_columns(30))
    with pytest.raises(InvalidInput, match=r"prepare\.slices: no row has topics; correct the name"):
        prepare_from(source, slices=["topics"])
    with pytest.raises(InvalidInput, match=r"prepare\.slices: prompt is a field that a format reads"):
        first_rows(PrepareConfig(source=f"path:{source}", slices=("prompt",)))
    rows = with_columns(40)
    rows[2]["topic"], rows[4]["topic"] = ["a"], "x" * 201
    metrics = prepare_from(jsonl(tmp_path / "odd.jsonl", rows), slices=["topic"]).metrics
    assert metrics["rows"]["rejected"] == 2
    first, second = (reject["reason"] for reject in rejects(out))
    assert first == "topic is a list; prepare.slices takes texts, numbers and truth values"
    assert "a value of prepare.slices has at most 200 printable characters" in second


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "feed:a", "slices": ["t"]}, "a row of a feed has none beside its messages"),
        ({"slices": ["t", "t"]}, "slices names 't' twice"),
        ({"slices": ["a=b"]}, "a rule could not name 'a=b'"),
        ({"slices": ["t"], "columns": {"t": "prompt"}}, "slices and columns both name 't'"),
        ({"slices": ["t"], "format": "chatterbot-topic"}, "a corpus has no columns"),
    ],
)
def test_slices_that_cannot_be_are_refused_before_anything_is_read(settings: Row, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PrepareConfig.model_validate({"source": "path:x.jsonl", **settings})


def test_a_dataset_without_any_is_as_before(prepare_from: Prepare, out: Path, tmp_path: Path) -> None:
    metrics = prepare_from(jsonl(tmp_path / "rows.jsonl", pairs(30))).metrics
    assert not {"references", "slices"} & (metrics.keys() | set(splits(out)["test"][0]))
