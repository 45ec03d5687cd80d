"""Held-out pairs: the likelier answer by what training teaches, in any engine, as a gate reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from flows.gates.evidence import load_evidence
from flows.gates.policy import TaskRule
from flows.gates.rules import judge_rule
from registry.evaluation_results import read_items
from stages.backends.chat import encode_with_mask
from stages.backends.evaluate.likelihood.preference import run_preference
from stages.backends.evaluate.llama_cpp_lm import LlamaCppLM
from stages.backends.evaluate.torch_lm import TorchLM
from stages.config.evaluate import EvaluateConfig, HeldoutTask, PreferenceTask
from stages.contract import Parent
from stages.errors import InvalidInput
from stages.evaluate import evaluate
from stages.formats.messages import last_answer_only
from stages.statistics.intervals import wilson
from tests.stages.backends.evaluate import asking
from tests.stages.backends.evaluate.asking import NF4

Row = dict[str, Any]


def row(asked: str, chosen: str, rejected: str, earlier: tuple[Row, ...] = ()) -> Row:
    return {
        "messages": [*earlier, {"role": "user", "content": asked}, {"role": "assistant", "content": chosen}],
        "rejected": {"role": "assistant", "content": rejected},
    }


def dataset(folder: Path, rows: list[Row]) -> Parent:
    folder.mkdir()
    for split in ("train", "test"):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return Parent(id="0" * 64, kind="dataset", path=folder)


ROWS = [
    row("Name a topic.", "food", "a very long answer about history and sports and computers"),
    row("Name a topic.", "sports", "food and history"),
    row("And another?", "history", "history of food and of sports", (
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello, how are you?"},
    )),
    row("One more number 7.", "food food food food food", "sports"),
]  # fmt: skip


def likelihood(lm: TorchLM, chat: list[Row]) -> tuple[float, int]:
    """Of the tokens that are trained, from the logits of the whole chat."""
    ids, mask = encode_with_mask(lm.tokenizer, last_answer_only(chat))
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([ids])).logits[0].float()
    found = torch.log_softmax(logits[:-1].double(), dim=-1)
    places = [place for place, on in enumerate(mask) if on]
    return float(sum(found[place - 1, ids[place]] for place in places)), len(places)


def test_an_answer_is_preferred_that_is_likelier(torch_lm: TorchLM, tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", ROWS)
    found = run_preference(torch_lm, PreferenceTask(), data, tmp_path)
    items = read_items(tmp_path, found)
    for item, pair in zip(items, ROWS, strict=True):
        chats = pair["messages"], [*pair["messages"][:-1], pair["rejected"]]
        (chosen, n), (rejected, m) = (likelihood(torch_lm, chat) for chat in chats)
        expected = {
            "preferred": float(chosen > rejected),
            "preferred_per_token": float(chosen / n > rejected / m),
        }
        assert item["scores"] == expected
        answer = pair["messages"][-1] if chosen > rejected else pair["rejected"]
        assert (item["answer"], item["target"]) == (answer["content"], pair["messages"][-1]["content"])
    preferred = [item["scores"]["preferred"] for item in items]
    assert found["metrics"]["preferred"]["value"] == sum(preferred) / 4
    assert (found["metric"], found["n"], items[0]["metric"]) == ("preferred", 4, "preferred")
    assert items[2]["asked"] == "Hi\nHello, how are you?\nAnd another?"
    assert found["words"] == f"4 pairs of the test split of dataset {'0' * 12}"


def test_pairs_of_one_prompt_belong_together(torch_lm: TorchLM, tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", ROWS)
    items = read_items(tmp_path, run_preference(torch_lm, PreferenceTask(), data, tmp_path))
    assert items[0]["cluster"] == items[1]["cluster"] == items[0]["prompt_hash"]
    assert items[2]["cluster"] is items[3]["cluster"] is None
    assert len({item["item"] for item in items}) == 4
    few = run_preference(torch_lm, PreferenceTask(max_items=1), data, tmp_path)
    assert few["metrics"]["preferred"]["n"] == 1
    value = few["metrics"]["preferred"]["value"]
    assert few["metrics"]["preferred"]["low"] == wilson(value, 1)[0]


def test_a_gguf_prefers_as_its_origin_does(pico_gguf: Parent, torch_lm: TorchLM, tmp_path: Path) -> None:
    (file,) = pico_gguf.path.glob("*.gguf")
    lm = LlamaCppLM(
        file, torch_lm.tokenizer, adapter=None, context_length=512, **asking.settings(torch_lm.tokenizer)
    )
    data = dataset(tmp_path / "data", ROWS)
    ours, theirs = (
        read_items(tmp_path, run_preference(model, PreferenceTask(), data, tmp_path))
        for model in (lm, torch_lm)
    )
    assert [item["scores"] for item in ours] == [item["scores"] for item in theirs]
    assert [item["item"] for item in ours] == [item["item"] for item in theirs]
    lm.close()


def test_an_evaluation_of_pairs_is_a_gate_s_evidence(pico_base: Parent, tmp_path: Path) -> None:
    config = EvaluateConfig(tasks=(PreferenceTask(name="pairs"), HeldoutTask(max_new_tokens=2)), nf4=NF4)
    data = dataset(tmp_path / "data", ROWS)
    facts, out = asking.run(tmp_path, "out", {"model": pico_base, "dataset": data}, config)
    assert facts.metrics["main"] == {"pairs": "preferred"}
    assert set(facts.metrics["tasks"]["pairs"]) == {"preferred", "preferred_per_token"}
    assert "pairs: 4 pairs of the test split" in facts.metrics["measured_on"]
    evidence = load_evidence(out, "e" * 64)
    assert evidence.problems == ()
    task = evidence.tasks["pairs"]
    assert set(task.scores) == {"preferred", "preferred_per_token"}
    assert (len(task.clusters), len(set(task.clusters.values()))) == (4, 3), (
        "a prompt of its own is a cluster"
    )
    rule = {"task": "pairs", "metric": "preferred", "role": "keep", "against": "baseline", "margin": 0.5}
    assert judge_rule(TaskRule.model_validate(rule), evidence, evidence, 1).verdict == "insufficient"
    results = json.loads((out / "results.json").read_text())
    assert results["tasks"]["pairs"]["config"]["kind"] == "preference"


def test_what_has_no_pairs_is_refused(torch_lm: TorchLM, pico_base: Parent, tmp_path: Path) -> None:
    chats = [{"messages": pair["messages"]} for pair in ROWS]
    with pytest.raises(InvalidInput, match=r"the dataset has one; prepare pairs with prepare\.format"):
        run_preference(torch_lm, PreferenceTask(), dataset(tmp_path / "chats", chats), tmp_path)
    with pytest.raises(InvalidInput, match=r"task preference asks for held-out pairs, but no prepared"):
        evaluate({"model": pico_base}, EvaluateConfig(tasks=(PreferenceTask(),)), tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    schema = pa.Table.from_pylist(ROWS).schema
    pq.write_table(pa.Table.from_pylist([], schema), empty / "test.parquet")
    with pytest.raises(InvalidInput, match=r"test split is empty"):
        run_preference(torch_lm, PreferenceTask(), Parent(id="0" * 64, kind="dataset", path=empty), tmp_path)


def test_pairs_of_the_validation_split(torch_lm: TorchLM, tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", ROWS)
    pq.write_table(pa.Table.from_pylist(ROWS[:2]), data.path / "validation.parquet")
    task = PreferenceTask(name="chosen by", split="validation")
    found = run_preference(torch_lm, task, data, tmp_path)
    assert found["words"] == f"2 pairs of the validation split of dataset {'0' * 12}"
    assert (found["n"], found["config"]["split"]) == (2, "validation")
    assert "split" not in PreferenceTask().model_dump(mode="json"), "or earlier evaluations are made again"
