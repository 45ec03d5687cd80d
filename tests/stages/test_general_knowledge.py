"""The task that is shipped for what was not tuned: its items, and that it runs without a network."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from flows.recipe import anchor
from flows.run.fingerprint import pinned
from registry.evaluation_results import read_items, read_results
from stages.config.evaluate import SHIPPED, EvaluateConfig, LmEvalTask
from stages.contract import Parent
from tests.stages.backends.evaluate.asking import config, run
from tests.stages.general_knowledge import FILE, NEARLY, SORTS, items, text

TASK = LmEvalTask(name="general_knowledge", path=SHIPPED)


def test_the_file_is_what_the_lists_make() -> None:
    assert FILE.read_text("utf-8") == text(), "run: python -m tests.stages.general_knowledge"
    rows = items()
    assert len(rows) == len({(row["question"], row["choices"][row["answer"]]) for row in rows}) >= 230
    assert all(len(set(row["choices"])) == 4 for row in rows)
    for row in rows:
        right = row["choices"][row["answer"]]
        wrong = set(row["choices"]) - {right}
        assert not any({right, other} <= set(line.split()) for line in NEARLY for other in wrong), row
        assert row["kind"] != "plural" or not wrong & {"persons", "oxes", "mouses", "gooses", "halfs"}, row
        assert row["kind"] != "order" or "right after" in row["question"]
    colours = {word for row in rows if "is a colour" in row["question"] for word in row["choices"]}
    assert not colours & set(SORTS["a fruit"].split()), "a peach is one too"
    places = Counter(row["answer"] for row in rows)
    assert max(places.values()) < 0.35 * len(rows), "no place is right more often"


@pytest.mark.usefixtures("one_thread")
def test_it_runs_and_counts_by_its_content(tmp_path: Path, pico_base: Parent) -> None:
    few = TASK.model_copy(update={"limit": 6})
    facts, out = run(tmp_path, "out", {"model": pico_base}, config(tasks=(few,)))
    assert facts.metrics["tasks"]["general_knowledge"]["acc"]["n"] == 6
    found = read_items(out, read_results(out)["tasks"]["general_knowledge"])  # type: ignore[arg-type]
    assert found[0]["asked"] == json.loads(FILE.read_text("utf-8").splitlines()[0])["question"]
    written = {"evaluate": {"tasks": [TASK.model_dump()]}}
    assert anchor(written, tmp_path)["evaluate"]["tasks"][0]["path"] == SHIPPED, "no file beside the recipe"
    path = pinned(EvaluateConfig(tasks=(TASK,)))["tasks"][0]["path"]
    assert path.startswith("general@")
