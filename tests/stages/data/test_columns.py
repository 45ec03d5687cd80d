"""Columns that the data call otherwise than a format does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from stages.config.prepare import PrepareConfig
from stages.errors import InvalidInput
from stages.prepare import first_rows
from tests.stages.data.prepared import Prepare, Row, jsonl, pairs, rejects, splits

COLUMNS = {"ticket": "prompt", "reply": "completion"}


def tickets(count: int) -> list[Row]:
    return [{"ticket": row["prompt"], "reply": row["completion"], "id": 1} for row in pairs(count)]


def chats(source: Path, **settings: Any) -> list[Any]:
    return first_rows(PrepareConfig(source=f"path:{source}", **settings))[0]


def write(path: Path, rows: list[Row]) -> Path:
    if path.suffix == ".jsonl":
        return jsonl(path, rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_column_is_read_as_the_field_that_it_is_named_for(
    prepare_from: Prepare, out: Path, tmp_path: Path, suffix: str
) -> None:
    source = write(tmp_path / f"rows{suffix}", tickets(30))
    metrics = prepare_from(source, columns=COLUMNS).metrics
    assert (metrics["format"], metrics["rows"]["accepted"]) == ("prompt-completion", 30)
    assert metrics["unused_fields"] == {"id": 30}
    assert {len(row["messages"]) for row in splits(out)["train"]} == {2}


def test_names_may_change_places(tmp_path: Path) -> None:
    rows = [{"prompt": row["completion"], "completion": row["prompt"]} for row in pairs(2)]
    source = jsonl(tmp_path / "rows.jsonl", rows)
    (first, _) = chats(source, columns={"prompt": "completion", "completion": "prompt"})
    assert first[1]["content"] == pairs(1)[0]["completion"]


def test_an_empty_field_gives_way_and_a_full_one_refuses_the_row(
    prepare_from: Prepare, out: Path, tmp_path: Path
) -> None:
    rows = [{**row, "prompt": ""} for row in tickets(40)]
    rows[2]["prompt"] = "Another?"
    metrics = prepare_from(jsonl(tmp_path / "rows.jsonl", rows), columns=COLUMNS).metrics
    assert metrics["rows"] == {"read": 40, "accepted": 39, "rejected": 1}
    assert rejects(out)[0]["reason"] == "the row has prompt, and ticket, which prepare.columns reads as that"


def test_a_column_that_no_row_has_is_named(prepare_from: Prepare, tmp_path: Path) -> None:
    source = jsonl(tmp_path / "rows.jsonl", tickets(30))
    with pytest.raises(InvalidInput, match=r"prepare.columns: no row has notes; correct"):
        prepare_from(source, columns={**COLUMNS, "notes": "system"})


def test_wrong_names_are_refused(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "rows.jsonl", tickets(3))
    with pytest.raises(
        InvalidInput, match=r"prepare.columns: question_text is not a field .*completion, .*prompt"
    ):
        chats(source, columns={"ticket": "question_text"})
    with pytest.raises(ValueError, match="two columns for the field 'prompt'"):
        PrepareConfig(source="path:x", columns={"a": "prompt", "b": "prompt"})
    with pytest.raises(ValueError, match="corpus has no columns"):
        PrepareConfig(source="path:x", format="chatterbot-topic", columns={"a": "prompt"})


def test_recipes_without_columns_keep_their_keys() -> None:
    assert "columns" not in PrepareConfig(source="path:x").model_dump(mode="json")
