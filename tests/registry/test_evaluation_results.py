"""An evaluation's files: their bytes are those of always, and what cannot be read is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from registry.evaluation_results import (
    EvaluationResults,
    first_heldout,
    parse_results,
    read_items,
    write_answers,
    write_results,
    write_samples,
)

ROWS = [{"item": "b", "answer": "né", "document": 1}, {"item": "a", "answer": "x", "document": 0}]


def results(**tasks: Any) -> EvaluationResults:
    return {"schema": 1, "seed": 0, "model": {"subject": "s", "parents": {}}, "tasks": tasks}


def test_bytes_of_samples(tmp_path: Path) -> None:
    """An evaluation's id is made of them: keys sorted, one row per line, text as it is."""
    logged = write_samples(tmp_path, "my task/2", ROWS)
    assert list(logged) == ["n", "samples", "samples_sha256"]
    assert (logged["n"], logged["samples"]) == (2, "samples_my_task_2.jsonl")
    lines = (tmp_path / logged["samples"]).read_text("utf-8").splitlines()
    assert lines[0] == '{"answer": "né", "document": 1, "item": "b"}'
    assert [item["item"] for item in read_items(tmp_path, logged)] == ["b", "a"]
    assert len(read_items(tmp_path, logged, 1)) == 1


def test_an_answer_may_hold_what_ends_a_line_elsewhere(tmp_path: Path) -> None:
    answer = "one\u2028two\x85three\x0cfour\nfive\r\nsix"
    logged = write_samples(tmp_path, "task", [{"item": "a", "answer": answer}])
    assert [item["answer"] for item in read_items(tmp_path, logged)] == [answer]


def test_bytes_of_results(tmp_path: Path) -> None:
    """Keys stand in the order in which they were given."""
    write_results(tmp_path, results())
    lines = (tmp_path / "results.json").read_text("utf-8").split("\n")
    assert lines[:4] == ["{", ' "schema": 1,', ' "seed": 0,', ' "model": {']
    assert lines[4:] == ['  "subject": "s",', '  "parents": {}', " },", ' "tasks": {}', "}", ""]
    write_answers(tmp_path, [{"question": "q", "answer": "ä"}])
    assert '"answer": "ä"' in (tmp_path / "answers.json").read_text("utf-8")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["answers.json", "results.json"]


def test_the_first_task_on_held_out_rows(tmp_path: Path) -> None:
    lm_eval, heldout = {"config": {"task": "sums"}}, {"config": {"kind": "heldout", "name": "h"}}
    write_results(tmp_path, results(sums=lm_eval, h=heldout, later=heldout))
    assert first_heldout(tmp_path) == heldout
    chosen_by = {"config": {"kind": "heldout", "name": "v", "split": "validation"}}
    write_results(tmp_path, results(v=chosen_by, h=heldout))
    assert first_heldout(tmp_path) == heldout, "rows of another split have other places"
    write_results(tmp_path, results(sums=lm_eval))
    assert first_heldout(tmp_path) is None


def test_no_number_that_is_not_finite(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        write_results(tmp_path, results(t={"value": float("nan")}))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="NaN is not a number in JSON"):
        parse_results(b'{"tasks": NaN}')
