"""`tuneline data view`: rows as the model sees them, without anything that could drive a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from flows import cli
from flows.run.dataset_rows import matching
from stages.contract import Parent
from stages.formats.dataset_rows import WIDE, paired

CALL = {"id": "c1", "type": "function", "function": {"name": "warmth", "arguments": '{"town": "Bo"}'}}
CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Is it on?"}, {"role": "assistant", "content": "Yes.\x1b[31m"}],
    [{"role": "user", "content": "And off?", "tools": "[]"}, {"role": "assistant", "content": "No, Bo."}],
    [{"role": "user", "content": "Warm?"}, {"role": "assistant", "content": "", "tool_calls": [CALL]}],
]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [
        {"messages": chat, "prompt_hash": "0", "tokens": 20, "trainable": 4 + n}
        for n, chat in enumerate(CHATS)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, WIDE), folder / "train.parquet")
    reject = {"file": "rows.jsonl", "line": 7, "code": "too_long", "reason": "2000 tokens\x1b[31m\u2028"}
    (folder / "rejects.jsonl").write_text(json.dumps(reject, ensure_ascii=False) + "\n")
    return folder


def test_trained_parts_are_marked(
    dataset: Path, pico_base: Parent, capsys: pytest.CaptureFixture[str]
) -> None:
    view = ["data", "view", str(dataset), "--base", str(pico_base.path)]
    assert cli.main([*view, "--rows", "1"]) == 0
    shown = capsys.readouterr().out
    assert "train: 3 rows" in shown
    assert "row 1, 20 tokens, 4 of them trained\n" in shown
    assert "<|im_start|>assistant\n⟦Yes.[31m<|im_end|>⟧" in shown
    assert "\x1b" not in shown
    assert cli.main([*view, "--from", "2", "--rows", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["total"], document["rows"][0]["row"]) == (3, 2)
    assert [p["text"] for p in document["rows"][0]["pieces"] if p["trained"]] == ["No, Bo.<|im_end|>"]


def test_rejected_rows_need_no_base(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "view", str(dataset), "--split", "rejected"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "rows.jsonl line 7: 2000 tokens[31m"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give the base's directory as --base"),
        (["--base", "x", "--split", "test"], "has no split test; expected train"),
        (["--base", "x", "--from", "0"], "count from 1"),
    ],
)
def test_what_is_missing_is_said(
    dataset: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert cli.main(["data", "view", str(dataset), *options]) == 3
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("text", "rows"), [("IS IT", [4]), ("bo", [5, 6]), ("warmth", [6]), ("none", [])])
def test_a_text_is_looked_for_in_contents_and_calls(dataset: Path, text: str, rows: list[int]) -> None:
    found, total = matching(dataset / "train.parquet", text, 0, 9)
    assert ([row["trainable"] for row in found], total) == (rows, len(rows))


@pytest.mark.parametrize("text", ["", "row"])
def test_rows_of_several_groups_are_numbered_through(tmp_path: Path, text: str) -> None:
    said = ["a row", "another", "a row", "a row", "other", "a row", "a row"]
    chats = [[{"role": "user", "content": each}] for each in said]
    rows = [{"messages": chat, "tokens": place} for place, chat in enumerate(chats)]
    table, file = pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet"
    pyarrow.parquet.write_table(table, file, row_group_size=2)
    held = [place for place, each in enumerate(said) if text in each]
    for start in range(9):
        for most in (1, 3, 9):
            found, total = matching(file, text, start, most)
            assert [row["tokens"] for row in found] == held[start : start + most]
            assert total == len(held)


def test_a_pair_is_shown_with_both_answers(
    tmp_path: Path, pico_base: Parent, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"messages": CHATS[0], "prompt_hash": "0", "tokens": 20, "trainable": 4}
    other = {"rejected": {"role": "assistant", "content": "Guess."}, "rejected_tokens": 21}
    table = pyarrow.Table.from_pylist([{**row, **other}], paired(WIDE))
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    view = ["data", "view", str(tmp_path), "--base", str(pico_base.path)]
    assert cli.main(view) == 0
    assert "rejected:\n" in (shown := capsys.readouterr().out)
    assert shown.index("⟦Yes.") < shown.index("rejected:") < shown.index("⟦Guess.<|im_end|>⟧")
    assert cli.main([*view, "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)["rows"]
    learned = [p["text"] for p in document["rejected"]["pieces"] if p["trained"]]
    assert learned == ["Guess.<|im_end|>"]


def test_a_report_names_places_and_shows_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "AKIA" + "IOSFODNN7EXAMPLE"
    chat = [
        {"role": "user", "content": f"Why is {key} refused?"},
        {"role": "assistant", "content": "It is old."},
    ]
    rows = [{"messages": chat, "prompt_hash": "0", "tokens": 20, "trainable": 5}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    assert cli.main(["data", "report", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "AWS access key" in shown
    assert "train 1 (user)" in shown
    assert key not in shown
    assert cli.main(["data", "report", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["sensitive"][0]["places"] == [["train", 1, "user"]]
    assert document["splits"][0]["trained_share"] == 0.25


@pytest.mark.parametrize(
    ("options", "said"),
    [([], "has no split: expected a dataset that `prepare` made"), (["--similar", "2"], "expected a share")],
)
def test_what_cannot_be_reported_on_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert cli.main(["data", "report", str(tmp_path), *options]) == 3
    assert said in capsys.readouterr().err
