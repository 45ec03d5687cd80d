"""Rows that say what an earlier row said: which are dropped, and how many may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.data.split import SPLITS
from stages.errors import InvalidInput
from tests.stages.data.prepared import Prepare, jsonl, pairs, splits


def test_duplicates_are_counted_apart(prepare_from: Prepare, tmp_path: Path) -> None:
    long = "Tell me in a few words what the weather in the north of the country will be like tomorrow"
    rows = [
        *pairs(20),
        {"prompt": long, "completion": "Cold, and in the evening there will be some snow on the hills."},
        {
            "prompt": long.upper(),
            "completion": "cold,  and in the evening there will be some snow on the hills.",
        },
        {
            "prompt": long,
            "completion": "Cold, and in the evening there will be some snow on the hills.",
        },
        {
            "prompt": long + " please",
            "completion": "Cold, and in the evening there will be some snow on the hills.",
        },
    ]
    source = jsonl(tmp_path / "rows.jsonl", rows)
    assert prepare_from(source).metrics["dropped"] == {"exact_duplicates": 1, "near_duplicates": 2}
    assert prepare_from(source, near_duplicates=None).metrics["dropped"] == {
        "exact_duplicates": 1,
        "near_duplicates": 0,
    }


def test_exact_duplicates_are_exact(prepare_from: Prepare, out: Path, tmp_path: Path) -> None:
    """Indentation, case and x² are what some data teach; only the kind of line end is no difference."""
    kinds = ["if a:\n  b", "if a:\n    b", "If a:\n  b", "x² + 1", "x2 + 1", "a\r\nb", "ﬁne", "fine"]
    rows = [{"prompt": f"Write {n}.", "completion": kind} for n in range(4) for kind in kinds]
    alike = [{**row, "completion": end.join("ab")} for row in rows[5::8] for end in ("\r", "\n")]
    source = jsonl(tmp_path / "rows.jsonl", rows + alike)
    dropped = prepare_from(source, near_duplicates=None).metrics["dropped"]
    assert dropped == {"exact_duplicates": 8, "near_duplicates": 0}
    assert {row["messages"][-1]["content"] for rows in splits(out).values() for row in rows} == set(kinds)
    before = {name: (out / f"{name}.parquet").read_bytes() for name in SPLITS}
    prepare_from(jsonl(tmp_path / "turned.jsonl", rows[::-1]), near_duplicates=None)
    assert before == {name: (out / f"{name}.parquet").read_bytes() for name in SPLITS}


def test_a_loss_of_more_than_the_limit_stops_the_run(prepare_from: Prepare, tmp_path: Path) -> None:
    long = " ".join(f"word{n}" for n in range(40))
    near = [{"prompt": f"{long} {n}", "completion": "Yes."} for n in range(3)]
    source = jsonl(tmp_path / "rows.jsonl", [*pairs(10), *pairs(2), *near])
    with pytest.raises(
        InvalidInput,
        match=r"4 of 15 good rows \(26.7%\) repeat an earlier row \(2 exact duplicates, 2 near duplicates\), "
        r"prepare.max_deduplicated is 20.0%; for example rows.jsonl line 11, rows.jsonl line 12, "
        r"rows.jsonl line 14; set prepare.near_duplicates to null .*, or prepare.max_deduplicated to 0.27 if",
    ):
        prepare_from(source)
    assert prepare_from(source, max_deduplicated=0.27).metrics["rows"]["accepted"] == 11
    assert prepare_from(source, near_duplicates=None).metrics["rows"]["accepted"] == 13
    with pytest.raises(InvalidInput, match=r"13.3%") as caught:
        prepare_from(source, near_duplicates=None, max_deduplicated=0.1)
    assert "near_duplicates to null" not in str(caught.value)


def test_rows_with_one_long_instruction_are_kept(prepare_from: Prepare, tmp_path: Path) -> None:
    rules = " ".join(f"Rule {k}: a message of matter {k} has the label l{k}." for k in range(9))
    rows = [
        {"instruction": rules, "input": f"My lamp number {n} is broken", "output": f"l{n % 3}"}
        for n in range(30)
    ]
    metrics = prepare_from(jsonl(tmp_path / "rows.jsonl", rows)).metrics
    assert metrics["dropped"] == {"exact_duplicates": 0, "near_duplicates": 0}
