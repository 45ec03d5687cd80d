"""`tuneline gate` on plain directories, without a registry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flows.commands.conftest import Run
from tests.flows.evaluation_files import BAD, GOOD, evaluation, parquet, question, write
from tests.flows.gates.test_judged import drawn, judgements, of, write_labels


def test_plain_directories_need_no_registry(
    directories: tuple[str, str], policy: Callable[..., str], run: Run, tmp_path: Path
) -> None:
    candidate, baseline = directories
    gate = ("gate", policy(), "--candidate", candidate, "--baseline", baseline)
    code, said = run(*gate)
    assert (code, "give its evaluation with --parent" in said["error"]) == (3, True)
    parent = str(write(tmp_path / "parent", evaluation(GOOD)))
    code, said = run(*gate, "--parent", parent)
    assert (code, said["verdict"], said["id"]) == (0, "pass", None)
    assert not (tmp_path / "never").exists()
    for asked in ({"lineage": True}, {"verified": True}):
        code, said = run("gate", policy(evidence=asked), *gate[2:], "--parent", parent)
        assert (code, "has no lineage and no digests" in said["rules"][-1]["sentence"]) == (3, True)
    code, said = run("gate", policy(contamination={}), *gate[2:], "--parent", parent)
    assert (code, "give them with --trained-on" in said["rules"][-1]["sentence"]) == (3, True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.parquet").write_bytes(parquet([question(1)]))
    trained = ("--parent", parent, "--trained-on", str(tmp_path / "data"))
    assert run("gate", policy(contamination={}), *gate[2:], *trained)[0] == 1
    (tmp_path / "data" / "train.parquet").write_bytes(b"no parquet")
    code, said = run("gate", policy(contamination={}), *gate[2:], *trained)
    assert (code, "expected the train.parquet of a prepared dataset" in said["error"]) == (3, True)


ADAPTED = "bfloat16 weights with transformers 5.19.0, with a LoRA adapter on cpu"


def test_a_directory_is_called_what_its_evaluation_recorded(
    policy: Callable[..., str], run: Run, tmp_path: Path
) -> None:
    candidate = str(write(tmp_path / "candidate", evaluation(GOOD, computed_with=ADAPTED)))
    baseline = str(write(tmp_path / "baseline", evaluation(BAD, computed_with=ADAPTED)))
    unsaid = str(write(tmp_path / "unsaid", evaluation(GOOD)))
    gate = ("gate", policy(), "--candidate", candidate, "--baseline", baseline, "--parent", unsaid)
    code, said = run(*gate)
    assert code == 0
    first, second, third = (one["sentence"] for one in said["rules"])
    for sentence in (first, third):
        assert "against the given baseline (bfloat16 weights, with a LoRA adapter) on 100 paired" in sentence
    assert "against the given parent (how it was computed is not recorded) on 100 paired" in second
    assert "quantized base" not in str(said["rules"])
    assert "channel" not in str(said["rules"])
    code, said = run(*gate, "--quant", "Q4_K_M")
    assert (code, "evaluation says bfloat16 weights, with a LoRA adapter" in said["error"]) == (3, True)
    assert run(*gate, "--quant", "none")[0] == 0


def test_labels_are_given_beside_what_a_judge_scored(
    policy: Callable[..., str], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "never"))
    scores, said = judgements(bias=0.1, better=0.3)
    for side, own in scores.items():
        of(tmp_path, side, own)
    claim = {"task": "heldout", "metric": "judge", "role": "improve", "against": "baseline"}
    gate = ("gate", policy(tasks=[claim]), "--candidate", str(tmp_path / "new"))
    gate = (*gate, "--baseline", str(tmp_path / "old"))
    code, without = run(*gate)
    assert (code, without["verdict"], without["rules"][0]["more_labels"]) == (2, "insufficient", 50)
    file = write_labels(tmp_path, said, drawn(200))
    code, with_labels = run(*gate, "--labels", str(file))
    assert (code, with_labels["verdict"], with_labels["rules"][0]["labels"]) == (0, "pass", 200)
    assert with_labels["evidence"].keys() - without["evidence"].keys() == {"labels"}
    code, refused = run(*gate, "--labels", str(tmp_path / "none.jsonl"))
    assert (code, "none.jsonl: cannot be read" in refused["error"]) == (3, True)
