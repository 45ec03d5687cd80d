"""Rows that are too long: refused by their beginning, and never for their characters."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from stages.backends import chat
from stages.contract import Parent
from stages.errors import InvalidInput
from tests.stages.data.prepared import Prepare, jsonl, pairs, rejects, splits


def test_when_every_row_is_too_long_the_lengths_are_said(prepare_from: Prepare, tmp_path: Path) -> None:
    rows = [{"prompt": f"{n} " + "word " * n, "completion": "x"} for n in range(100, 103)]
    with pytest.raises(
        InvalidInput, match=r"every one of the 3 rows.*1\d\d to 1\d\d tokens.*max_length is 64"
    ):
        prepare_from(jsonl(tmp_path / "rows.jsonl", rows), max_length=64)


@pytest.mark.parametrize("text", ["many words and more ", "a", "日本", "x!", "\u0301"])
def test_a_row_far_too_long_is_refused_by_its_beginning(
    prepare_from: Prepare,
    pico_base: Parent,
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
) -> None:
    """Counted in characters that are tokenized, not in seconds."""
    seen: list[int] = []
    tokenizer = chat.load_tokenizer(pico_base.path)
    real = type(tokenizer).__call__

    def counting(self: Any, given: str, *more: Any, **options: Any) -> Any:
        seen.append(len(given))
        return real(self, given, *more, **options)

    monkeypatch.setattr(type(tokenizer), "__call__", counting)
    many = text * (1_000_000 // len(text))
    turns = [{"role": role, "content": f"{text} {n}"} for n in range(5_000) for role in ("user", "assistant")]
    source = jsonl(tmp_path / "rows.jsonl", [*pairs(20), {"prompt": many, "completion": "x"}])
    with source.open("a") as stream:
        stream.write(json.dumps({"prompt": turns[:-1], "completion": turns[-1:]}))
    assert prepare_from(source, max_length=64, max_rejected=0.2).metrics["rejected"] == {"too_long": 2}
    assert max(seen) < 64 * 8 * 64
    reasons = [
        re.fullmatch(r"about (\d+) tokens, more than max_length 64", r["reason"]) for r in rejects(out)
    ]
    right = len(tokenizer(many[:100_000])["input_ids"]) * len(many) / 100_000
    assert reasons[0]
    assert reasons[1]
    assert int(reasons[0][1]) == pytest.approx(right, rel=0.3)


def test_a_long_row_of_few_tokens_is_not_refused(prepare_from: Prepare, out: Path, tmp_path: Path) -> None:
    """SmolLM2 has tokens for long runs of spaces: 6,000 characters, and fewer tokens than the limit."""
    spaced = [{"prompt": f"a{' ' * 6000}{n}", "completion": "x"} for n in range(3)]
    prepare_from(jsonl(tmp_path / "rows.jsonl", [*pairs(20), *spaced]), max_length=256)
    assert rejects(out) == []
    assert max(row["tokens"] for rows in splits(out).values() for row in rows) > 90
