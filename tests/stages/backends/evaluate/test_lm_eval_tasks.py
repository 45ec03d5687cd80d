"""Tasks as lm-eval runs them, held-out chats among them: scores of the answers, and errors that say why."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from flows.gates.gate import load_evidence
from stages.backends.chat import load_tokenizer, render
from stages.backends.evaluate import heldout
from stages.backends.evaluate.lm_eval_tasks import run_task
from stages.backends.evaluate.token_lm import Row, TokenLM
from stages.config.evaluate import HeldoutTask, LmEvalTask
from stages.contract import Parent
from stages.errors import InvalidInput, StageError
from stages.scoring.summary import summarize
from tests.stages.backends.evaluate.asking import (
    TOPICS,
    answer,
    chat,
    config,
    run,
    settings,
    write_dataset,
)

pytestmark = pytest.mark.usefixtures("one_thread")


class ScriptedLM(TokenLM):
    """Answers each prompt as it is told to, then ends its turn; knows nothing else."""

    def __init__(self, tokenizer: Any, script: dict[str, str], batch_size: int = 3) -> None:
        super().__init__(tokenizer, max_length=256, **settings(tokenizer, batch_size))
        self.script = [self._tokenize(p, False) + self._tokenize(a, False) for p, a in script.items()]
        self.rows: list[Row] = []

    def _tokenize(self, text: str, special: bool) -> Row:
        return tuple(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def tok_decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def _next(self, row: Row) -> torch.Tensor:
        logits = torch.zeros(len(self.tokenizer))
        fitting = [told[len(row)] for told in self.script if told[: len(row)] == row and len(told) > len(row)]
        logits[fitting[0] if fitting else self.tokenizer.eos_token_id] = 20
        return logits

    def _read(self, rows: Sequence[Row]) -> torch.Tensor:
        self.rows = list(rows)
        return torch.stack([self._next(row) for row in self.rows])

    def _add(self, kept: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        return self._read([(*self.rows[place], token) for place, token in zip(kept, tokens, strict=True)])

    def _branch(self, parents: Sequence[int], rows: Sequence[Row]) -> list[torch.Tensor]:
        return [
            torch.stack([self._next(self.rows[parent] + row[: end + 1]) for end in range(len(row))])
            for parent, row in zip(parents, rows, strict=True)
        ]


def scripted(pico_base: Parent, rows: Sequence[list[dict[str, str]]], answers: Sequence[str]) -> ScriptedLM:
    tokenizer = load_tokenizer(pico_base.path)
    prompts = [render(tokenizer, row[:-1], add_generation_prompt=True) for row in rows]
    return ScriptedLM(tokenizer, dict(zip(prompts, answers, strict=True)))


def test_scores_are_those_of_the_answers(pico_base: Parent, tmp_path: Path) -> None:
    rows = [chat(k, answer(TOPICS[k % 5])) for k in range(10)]
    told = [row[-1]["content"] for row in rows]
    told[0] = f"  {told[0]}\n"  # right: white space at the ends does not count
    told[1] = answer("sports")  # wrong, and JSON
    told[2] = '{"topic": "computers'  # wrong as text, right as the likeliest answer, no JSON
    lm = scripted(pico_base, rows, told)
    task = HeldoutTask(name="routing", choice=True, max_new_tokens=24)
    said = run_task(lm, task, write_dataset(tmp_path / "data", rows), 0, tmp_path)
    values = {metric: found["value"] for metric, found in said["metrics"].items()}
    assert values == {"exact_match": 0.8, "json_valid": 0.9, "choice_acc": 0.8}
    assert said["metrics"]["exact_match"]["n"] == 10
    samples = [json.loads(line) for line in (tmp_path / said["samples"]).read_text().splitlines()]
    assert [s["score"] for s in samples] == [1, 0, 0] + [1] * 7
    assert samples[1]["answer"] == answer("sports")
    assert samples[1]["target"] == answer("history")
    assert said["choice"]["prefix"] == '{"topic": "'
    assert said["choice"]["suffix"] == '"}'


def test_choices_that_begin_one_another_are_compared_with_their_end(
    pico_base: Parent, tmp_path: Path
) -> None:
    rows = [chat(k, said) for k, said in enumerate(["food", "food court", "food", "food court"])]
    told = [row[-1]["content"] for row in rows]
    lm = scripted(pico_base, rows, told)
    answers = heldout._distinct_answers(write_dataset(tmp_path / "data", rows).path, rows[0], lm)
    assert answers.suffix == ""
    assert all(middle.endswith("<|im_end|>") for middle in answers.compared)
    task = HeldoutTask(choice=True)
    said = run_task(lm, task, Parent(id="d" * 64, kind="dataset", path=tmp_path / "data"), 0, tmp_path)
    assert said["metrics"]["choice_acc"]["value"] == 1


@pytest.fixture
def local_task(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"question": f"{k} + 1 =", "choices": [str(k), str(k + 1)], "answer": 1} for k in range(6)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "sums.yaml").write_text(
        "task: sums\ndataset_path: json\ndataset_kwargs: {data_files: {test: sums.jsonl}}\ntest_split: test\n"
        'output_type: multiple_choice\ndoc_to_text: "{{question}}"\ndoc_to_choice: choices\n'
        "doc_to_target: answer\nmetric_list:\n"
        "  - {metric: acc, aggregation: mean, higher_is_better: true}\n"
    )
    return folder


def test_a_local_yaml_task(tmp_path: Path, pico_base: Parent, local_task: Path) -> None:
    task = LmEvalTask(name="sums", path=str(local_task), limit=5, fewshot=1, cluster="answer")
    facts, out = run(tmp_path, "out", {"model": pico_base}, config(tasks=(task,)))
    said = json.loads((out / "results.json").read_text())["tasks"]["sums"]
    assert facts.metrics["tasks"]["sums"]["acc"]["n"] == 5
    assert (said["limit"], said["fewshot"], said["metric"]) == (5, 1, "acc")
    assert said["chat_template_applied_by"] == "lm-eval"
    assert load_evidence(out, "e").problems == ()
    rows = [json.loads(line) for line in (out / said["samples"]).read_text().splitlines()]
    assert [row["asked"] for row in rows] == [f"{k} + 1 =" for k in range(5)], "without the few-shot example"
    assert len({row["cluster"] for row in rows}) == 1, "all answers are the second choice"
    with pytest.raises(InvalidInput, match="cluster is 'passage', but its documents have question, choices"):
        run(
            tmp_path, "none", {"model": pico_base},
            config(tasks=(task.model_copy(update={"cluster": "passage"}),)),
        )  # fmt: skip
    with pytest.raises(InvalidInput, match="no score per item for f1"):
        run(
            tmp_path, "other", {"model": pico_base}, config(tasks=(task.model_copy(update={"metric": "f1"}),))
        )


def test_a_task_that_cannot_be_had_offline_is_named(
    tmp_path: Path, pico_base: Parent, local_task: Path
) -> None:
    for task in (
        LmEvalTask(name="sume", path=str(local_task)),
        LmEvalTask(name="sums", path=str(tmp_path / "no")),
    ):
        with pytest.raises(InvalidInput, match=rf"task {task.name}|no is not a directory"):
            run(tmp_path, task.name, {"model": pico_base}, config(tasks=(task,)))
    (local_task / "sums.jsonl").unlink()
    with pytest.raises(InvalidInput, match="task sums cannot be loaded"):
        run(
            tmp_path,
            "gone",
            {"model": pico_base},
            config(tasks=(LmEvalTask(name="sums", path=str(local_task)),)),
        )


def test_missing_samples_are_an_error(
    tmp_path: Path, pico_base: Parent, topics: Parent, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval import evaluator

    whole = evaluator.evaluate

    def partly(**given: Any) -> Any:
        found = whole(**given)
        found["samples"]["routing"].pop()
        return found

    monkeypatch.setattr(evaluator, "evaluate", partly)
    with pytest.raises(StageError, match="logged 19 of 20 items"):
        run(tmp_path, "out", {"model": pico_base, "dataset": topics}, config())
    assert not (tmp_path / "out" / "results.json").exists()


def test_summaries_of_scores_that_are_no_shares() -> None:
    found = summarize([0.5, 1.5, 2.5])
    assert (found["value"], found["interval"]) == (1.5, "normal")
    assert found["high"] == pytest.approx(1.5 + 1.96 / math.sqrt(3))
