"""Fields of rows: what becomes of each, and what is said where those that are needed are missing."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from stages.errors import InvalidInput
from tests.stages.data.prepared import Prepare, jsonl, pairs, rejects


def test_missing_columns_are_named_with_those_found(prepare_from: Prepare, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,b\n")
    with pytest.raises(InvalidInput, match=r"fields text, label.*\{text: prompt, label: completion\}"):
        prepare_from(tmp_path / "rows.csv")
    with pytest.raises(InvalidInput, match=r"fields text, label.*'instruction'.*instruction and output"):
        prepare_from(tmp_path / "rows.csv", format="instruction")


def test_what_becomes_of_every_field_is_said_once(
    prepare_from: Prepare, out: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{**row, "id": n, "tags": [] if n else ["x"], "\ud800": 1} for n, row in enumerate(pairs(40))]
    rows[7]["tool_calls"] = [{"id": "1"}]
    with caplog.at_level(logging.INFO, logger="tuneline.stage"):
        metrics = prepare_from(jsonl(tmp_path / "rows.jsonl", rows)).metrics
    assert metrics["unused_fields"] == {"'\\ud800'": 39, "id": 39, "tags": 1}
    assert metrics["rejected"] == {"unsupported_field": 1}
    assert rejects(out)[0]["reason"] == (
        "the row has tool_calls: a call belongs to an assistant's message, its result to one of role tool"
    )
    told = [vars(record)["progress"] for record in caplog.records if hasattr(record, "progress")]
    assert [event["not_used"] for event in told if "not_used" in event] == ["'\\ud800', id, tags"]
    assert "| `id` | 39 |" in (out / "README.md").read_text("utf-8")


def test_fields_whose_names_are_data_have_an_end(prepare_from: Prepare, tmp_path: Path) -> None:
    rows = [{**row, f"key {n}": 1} for n, row in enumerate(pairs(60))]
    unused = prepare_from(jsonl(tmp_path / "rows.jsonl", rows)).metrics["unused_fields"]
    assert len(unused) == 41
    assert unused["(other fields)"] == 20


@pytest.mark.parametrize("name", ["prompt", "\ud800"])
def test_names_that_cannot_be_printed_are_told_all_the_same(
    prepare_from: Prepare, tmp_path: Path, name: str
) -> None:
    with pytest.raises(InvalidInput, match="the rows have the fields") as caught:
        prepare_from(jsonl(tmp_path / "rows.jsonl", [{name: "x", "a\nb": 2, "c" * 10_000: 3}]))
    assert len(str(caught.value)) < 900
    assert str(caught.value).isprintable()
