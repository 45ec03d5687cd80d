"""What the commands on plain directories say: readable by default, JSON when asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from flows.commands.figures import figures

DATASET = {
    "kind": "dataset",
    "metrics": {
        "rows": {"read": 1041, "accepted": 1040, "rejected": 1}, "rejected": {"malformed": 1},
        "dropped": {"exact_duplicates": 2, "near_duplicates": 0}, "unused_fields": {"mood": 40},
        "splits": {"train": {"rows": 1039, "tokens": 41617}, "test": {"rows": 1, "tokens": 43}},
    },
}  # fmt: skip
MERGED = {
    "kind": "merged",
    "quant": {"requested": {"dtype": "float16"}, "effective": {"bits_per_weight": 16.004}},
    "metrics": {"bytes": 269_000_000, "parameters": 134_515_008, "tensors_merged": 210, "tensors_copied": 62},
}
ADAPTER = {
    "kind": "adapter",
    "metrics": {
        "outline": {"rank": 8, "alpha": 16.0}, "steps": 1400, "rows": 109, "tokens": 4175,
        "validation_loss": 8.33146, "validation_rows": 10,
    },
}  # fmt: skip
SCORES = {
    "kind": "evaluation",
    "metrics": {
        "tasks": {"heldout": {"exact_match": {"value": 0.625, "low": 0.5, "high": 0.75, "n": 1231}}},
        "measured_on": "heldout: 1231 items", "bytes": 16_400_000, "bits_per_weight": 8.5,
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (DATASET, [
            ("rows", "1,041 read, 1,040 accepted, 1 rejected"), ("rejected", "malformed 1"),
            ("left out", "exact duplicates 2"), ("unused fields", "mood 40"),
            ("train", "1,039 rows, 41,617 tokens"), ("test", "1 row, 43 tokens"),
        ]),
        (MERGED, [
            ("form", "float16"), ("size", "269 MB, 134.5 million parameters"), ("bits/weight", "16.00"),
            ("tensors", "210 merged, 62 copied"),
        ]),
        (ADAPTER, [
            ("LoRA", "rank 8, alpha 16"), ("trained", "1,400 steps, 109 rows, 4,175 tokens"),
            ("loss", "8.331 on 10 validation rows"),
        ]),
        (SCORES, [
            ("heldout", "exact_match 62.5% (50.0–75.0), n = 1,231"), ("size", "16.4 MB"),
            ("bits/weight", "8.50"), ("measured on", "heldout: 1231 items; in brackets: 95% intervals"),
        ]),
    ],
)  # fmt: skip
def test_the_main_figures(facts: dict[str, Any], said: list[tuple[str, str]]) -> None:
    assert list(figures(facts)) == said


def test_a_summary_or_one_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("flows.run.standalone_stage.run_plain", lambda *_: MERGED)
    out = tmp_path / "a b"
    words = ["merge", "--base", "base", "--adapter", "adapter", "--out", str(out)]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"merge: merged in {out}, made in ")
    assert f"quantize --model '{out}' --out NEW" in shown
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(out), "facts": MERGED}


def test_an_unknown_argument_is_refused_by_its_own_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words, command in (
        (["merge", "--base", "b", "--adapter", "a", "--out", "o", "more"], "merge"),
        (["artifacts", "gc", "--deleted"], "artifacts gc"),
    ):
        with pytest.raises(SystemExit, match="3"):
            cli.main(words)
        said = capsys.readouterr().err
        assert said.startswith(f"usage: tuneline {command} [-h]")
        assert said.endswith(f"tuneline {command}: unrecognized arguments: {words[-1]}\n")
