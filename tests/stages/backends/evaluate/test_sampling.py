"""Several answers to an item: how tokens are drawn, what is kept of them, and pass@k."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from flows.gates.evidence import load_evidence
from registry.evaluation_results import Item, read_items, read_results
from stages.backends import chat
from stages.backends.evaluate.choosing import by_seeds, drawn
from stages.backends.evaluate.llama_cpp_lm import LlamaCppLM
from stages.backends.evaluate.sampling import Wanted, draw, seed_of
from stages.backends.evaluate.torch_lm import TorchLM
from stages.config.evaluate import HeldoutTask
from stages.config.sample import SampleConfig, pass_scores
from stages.contract import Parent
from tests.stages.backends.evaluate.asking import NF4, config, run, settings, write_dataset
from tests.stages.backends.evaluate.test_heldout import Parrot
from tests.stages.backends.evaluate.test_heldout_metrics import measured, spoken

pytestmark = pytest.mark.usefixtures("one_thread")
RNG = np.random.default_rng(0)


def shares(logits: np.ndarray[Any, Any], top_p: float, times: int = 4000) -> list[float]:
    found = [drawn(logits, numbers, top_p) for numbers in RNG.random((times, len(logits)))]
    return [count / times for count in np.bincount(found, minlength=len(logits))]


def test_tokens_are_drawn_as_often_as_their_probability_says() -> None:
    logits = np.log(np.array([0.5, 0.02, 0.3, 0.18]))
    assert shares(logits, 1.0) == pytest.approx([0.5, 0.02, 0.3, 0.18], abs=0.03)
    assert shares(logits, 0.75) == pytest.approx([0.625, 0, 0.375, 0], abs=0.03)
    assert shares(logits, 1e-9, 10) == [1, 0, 0, 0], "at least the likeliest"
    assert drawn(logits, np.zeros(4), 1.0) == 0


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
def test_the_few_likeliest_are_those_of_a_whole_sort(top_p: float) -> None:
    logits = RNG.normal(size=300) * 4
    weights = np.exp(logits) / np.exp(logits).sum()
    ranked = np.argsort(-weights)
    before = np.cumsum(weights[ranked]) - weights[ranked]
    nucleus = set(ranked[before < top_p].tolist())
    for token in range(300):  # whichever has the largest number
        numbers = np.full(300, 0.5)
        numbers[token] = 1 - 1e-16
        assert (drawn(logits, numbers, top_p) in nucleus) == (
            drawn(logits, numbers, 1.0) in nucleus or token not in nucleus
        )


def test_an_answer_depends_on_its_own_seed_and_on_no_other_row() -> None:
    logits = torch.tensor(RNG.normal(size=(3, 50)))
    together = by_seeds([7, 8, 9], 1.0, 0.95)
    first, second = together(logits, [0, 1, 2]), together(logits[1:], [1, 2])
    alone = by_seeds([8], 1.0, 0.95)
    assert [alone(logits[1:2], [0])[0], alone(logits[1:2], [0])[0]] == [first[1], second[0]]
    wider = torch.cat([logits, torch.full((3, 5), -50.0)], dim=1)
    assert list(by_seeds([7, 8, 9], 1.0, 0.95)(wider, [0, 1, 2])) == list(first), "padding changes nothing"
    cold = by_seeds([1, 2, 3], 1e-6, 1.0)
    assert list(cold(logits, [0, 1, 2])) == logits.argmax(dim=-1).tolist()
    assert len({seed_of(s, key, n) for s in (0, 1) for key in "ab" for n in range(4)}) == 16


@pytest.mark.parametrize("engine", ["torch", "llama.cpp"])
def test_both_engines_draw_the_same_whatever_is_drawn_beside(
    engine: str, torch_lm: TorchLM, pico_base: Parent, pico_gguf: Parent
) -> None:
    lm: Any = torch_lm
    if engine == "llama.cpp":
        file = pico_gguf.path / "model.gguf"
        lm = LlamaCppLM(file, torch_lm.tokenizer, context_length=256, **settings(torch_lm.tokenizer))
    sample = SampleConfig(answers=3, temperature=0.7)
    prompts = [tuple(lm.tok_encode(text)) for text in ("Tell me.", "Tell me about food and tea.")]
    wanted = [Wanted(prompt, seed_of(0, str(prompt), k)) for prompt in prompts for k in range(3)]
    together = draw(lm, wanted, sample, 8)
    assert together == [draw(lm, [one], sample, 8)[0] for one in wanted]
    assert len(set(together)) > 3, "answers differ"
    if engine == "llama.cpp":
        lm.close()


class Unsure(Parrot):
    """Knows two answers by heart: the first token decides, and both are as likely."""

    def __init__(self, tokenizer: Any, chats: Sequence[Any], others: Sequence[Any]) -> None:
        super().__init__(tokenizer, chats)
        other = Parrot(tokenizer, others)
        self._other = {row: token for row, token in other._next.items() if self._next.get(row) != token}
        self._next = other._next | self._next

    def _after(self, row: Any) -> torch.Tensor:
        logits = super()._after(row)
        if (other := self._other.get(row)) is not None:
            logits[other] = 30.0
        return logits


RIGHT = [spoken(f"pick {k}", "left") for k in range(12)]
WRONG = [spoken(f"pick {k}", "right") for k in range(12)]


@pytest.fixture(scope="module")
def plain(pico_base: Parent) -> Any:
    return chat.load_tokenizer(pico_base.path)


def _rows(tmp_path: Path, plain: Any, monkeypatch: pytest.MonkeyPatch, **task: Any) -> tuple[Any, list[Item]]:
    name = "tests.stages.backends.evaluate.test_heldout_metrics.Parrot"
    monkeypatch.setattr(name, lambda tokenizer, said: Unsure(tokenizer, said, RIGHT))
    found = measured(tmp_path, plain, RIGHT, WRONG, **task)
    return found, read_items(tmp_path, found)


def test_every_drawn_answer_is_kept_and_counted(
    tmp_path: Path, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = {"answers": 6, "pass_at": [1, 2], "temperature": 1.0}
    own = tmp_path / "own.py"
    own.write_text("def score(answer, references, messages):\n    return answer == references[0]\n")
    python = {"kind": "python", "path": str(own), "scores_are": "binary"}
    metrics = ["exact", "rouge_l", python]
    found, rows = _rows(tmp_path, plain, monkeypatch, metrics=metrics, sample=sample)
    shares = []
    for row in rows:
        answers = [one["answer"] for one in row["drawn"]]
        assert set(answers) <= {"left", "right"}
        right = answers.count("left")
        assert [one["scores"] for one in row["drawn"]] == [
            {"exact_match": float(a == "left"), "python": float(a == "left")} for a in answers
        ]
        wrong = 6 - right
        assert row["scores"]["pass@1[exact_match]"] == pytest.approx(right / 6)
        assert row["scores"]["pass@2[python]"] == pytest.approx(1 - wrong * (wrong - 1) / 30)
        shares.append(right / 6)
    assert 0.3 < sum(shares) / len(shares) < 0.7
    seeds = [one["seed"] for row in rows for one in row["drawn"]]
    assert len(set(seeds)) == 72
    assert max(seeds) < 2**53
    assert found["metric"] == "exact_match"
    assert set(found["metrics"]) == {
        "exact_match", "rouge_l", "python", "pass@1[exact_match]", "pass@2[exact_match]", "pass@1[python]",
        "pass@2[python]",
    }  # fmt: skip
    assert found["config"]["sample"]["answers"] == 6


def test_a_task_that_draws_asks_for_a_metric_of_0_and_1() -> None:
    with pytest.raises(ValidationError, match=r"sample: pass@k counts right answers"):
        HeldoutTask.model_validate({"metrics": ["rouge_l"], "sample": {"answers": 2}})
    with pytest.raises(ValidationError, match=r"pass@3 needs at least as many answers, 2 are drawn"):
        SampleConfig(answers=2, pass_at=(3,))
    with pytest.raises(ValidationError, match=r"pass_at names a number twice: 1, 1"):
        SampleConfig(answers=2, pass_at=(1, 1))
    task = HeldoutTask.model_validate({"metrics": ["tool_call", "length"], "sample": {"answers": 2}})
    assert list(pass_scores(task.sample, task.metrics)) == ["pass@1[tool_call]", "pass@1[tool_call_name]"]


def test_the_verb_draws_on_each_form_of_a_model(tmp_path: Path, pico_base: Parent, pico_gguf: Parent) -> None:
    task = HeldoutTask(name="t", max_new_tokens=4, sample=SampleConfig(answers=2))
    data = write_dataset(tmp_path / "data", [spoken(f"ask {k}", "yes") for k in range(3)])
    parents = {"model": pico_base, "dataset": data}
    drawn = {}
    for name, given, more in (
        ("nf4", {"nf4": NF4}, {}),
        ("gguf", {}, {"model": pico_gguf, "base": pico_base}),
    ):
        _, out = run(tmp_path, name, parents | more, config(tasks=(task,), **given))
        result = read_results(out)["tasks"]["t"]
        drawn[name] = read_items(out, result)
        assert not load_evidence(out, "e").problems
        assert {"exact_match", "pass@1[exact_match]"} == set(result["metrics"])
    seeds = {name: [one["seed"] for row in rows for one in row["drawn"]] for name, rows in drawn.items()}
    assert seeds["nf4"] == seeds["gguf"], "models that are compared draw with the same numbers"
