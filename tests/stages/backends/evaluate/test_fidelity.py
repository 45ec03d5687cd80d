"""Fidelity: the figures are those of a plain computation, the same each time, and nothing is left behind."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from stages.backends.chat import encode_with_mask, load_tokenizer
from stages.backends.evaluate.fidelity.distances import SCRATCH
from stages.backends.evaluate.fidelity.intervals import ByChat
from stages.backends.evaluate.fidelity.parity import compare_readers
from stages.backends.gptq.groups import require_group_size
from stages.config.base import BaseConfig
from stages.config.evaluate import EvaluateConfig, FidelityTask, HeldoutTask, MergeBaseTask
from stages.contract import Parent
from stages.errors import Diverged, InvalidInput
from stages.evaluate import evaluate
from stages.quantization.gguf import GgufConfig
from stages.quantize import quantize
from stages.resolve import resolve
from stages.statistics.merge_choice import Estimate, MergeEvidence, decide
from tests.conftest import as_parent

TASK = FidelityTask(chats=6, tokens=12)
HELDOUT = HeldoutTask(max_new_tokens=2, max_items=2)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Parent:
    """In float16, which is computed in float32: equal sums give equal figures."""
    folder = tmp_path_factory.mktemp("base")
    return as_parent(resolve({}, BaseConfig(source="pico:0", dtype="float16"), folder), folder)


@pytest.fixture(scope="module")
def noisy(base: Parent, tmp_path_factory: pytest.TempPathFactory) -> Parent:
    """The same model with one changed matrix."""
    folder = tmp_path_factory.mktemp("noisy") / "model"
    shutil.copytree(base.path, folder)
    tensors = load_file(folder / "model.safetensors")
    weight = tensors["model.layers.0.mlp.down_proj.weight"]
    weight += torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).half() * 0.05
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return base.model_copy(update={"path": folder, "id": "b" * 64, "kind": "merged"})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Parent:
    folder = tmp_path_factory.mktemp("data")
    rows = [
        [{"role": "user", "content": f"Name number {k}{' and more' * (k % 3)}."},
         {"role": "assistant", "content": f"It is {k * k}."}]
        for k in range(8)
    ]  # fmt: skip
    for split in ("train", "validation", "test"):
        pq.write_table(pa.table({"messages": rows}), folder / f"{split}.parquet")
    return Parent(id=hashlib.sha256(b"data").hexdigest(), kind="dataset", path=folder)


def run(out: Path, parents: dict[str, Parent], *tasks: Any) -> dict[str, Any]:
    out.mkdir()
    return evaluate(parents, EvaluateConfig(tasks=tasks, batch_size=4, compute_dtype="float32"), out).metrics


def by_hand(base: Parent, noisy: Parent, data: Parent) -> dict[str, float]:
    """Whole sequences through transformers, one at a time."""
    tokenizer = load_tokenizer(base.path)
    models = [AutoModelForCausalLM.from_pretrained(p.path, dtype=torch.float32) for p in (noisy, base)]
    kls, same, worse, answer_worse = [], [], [], []
    for chat in pq.read_table(data.path / "test.parquet")["messages"].to_pylist()[: TASK.chats]:
        ids, mask = encode_with_mask(tokenizer, chat)
        with torch.inference_mode():
            ours, theirs = (
                torch.log_softmax(m(torch.tensor([ids])).logits[0, :-1, : len(tokenizer)], -1) for m in models
            )
        for place in range(len(ids) - 1)[-TASK.tokens :]:
            q, p, target = ours[place], theirs[place], ids[place + 1]
            kls.append(float((p.exp() * (p - q)).sum()))
            same.append(float(q.argmax() == p.argmax()))
            worse.append(float(p[target] - q[target]))
            if mask[place + 1]:
                answer_worse.append(worse[-1])
    return {
        "kl_mean": float(np.mean(kls)),
        "kl_p99": float(np.quantile(kls, 0.99, method="inverted_cdf")),
        "same_top": float(np.mean(same)),
        "perplexity_ratio": math.exp(np.mean(worse)),
        "answer_perplexity_ratio": math.exp(np.mean(answer_worse)),
    }


def test_figures_are_those_of_a_plain_computation(
    tmp_path: Path, base: Parent, noisy: Parent, data: Parent
) -> None:
    parents = {"model": noisy, "base": base, "reference": base, "dataset": data}
    found = run(tmp_path / "one", parents, HELDOUT, TASK)["fidelity"]["fidelity"]
    for metric, expected in by_hand(base, noisy, data).items():
        assert found["metrics"][metric]["value"] == pytest.approx(expected, rel=1e-3), metric
        assert found["metrics"][metric]["low"] <= expected * 1.001
        assert found["metrics"][metric]["high"] >= expected * 0.999
    assert found["metrics"]["kl_mean"]["value"] > 1e-4, "the two models differ"
    assert (found["reference"]["subject"], found["n"], found["finite"]) == (base.id, 6, True)
    again = run(tmp_path / "two", parents, HELDOUT, TASK)["fidelity"]["fidelity"]
    assert again == found
    names = {file.name for file in (tmp_path / "one").iterdir()}
    assert names == {"answers.json", "results.json", "samples_fidelity.jsonl", "samples_heldout.jsonl"}
    assert all((tmp_path / "one" / n).read_bytes() == (tmp_path / "two" / n).read_bytes() for n in names)


def test_a_model_is_itself_in_either_engine(tmp_path: Path, base: Parent, data: Parent) -> None:
    (tmp_path / "gguf").mkdir()
    facts = quantize({"model": base}, GgufConfig(type="F16"), tmp_path / "gguf")
    gguf = as_parent(facts, tmp_path / "gguf")
    same = {"model": base, "base": base, "reference": base, "dataset": data}
    for name, parents, most in (("torch", same, 1e-9), ("llama.cpp", {**same, "model": gguf}, 1e-3)):
        found = run(tmp_path / name, parents, HELDOUT, TASK)
        metrics = found["fidelity"]["fidelity"]["metrics"]
        assert metrics["kl_mean"]["value"] < most
        assert metrics["perplexity_ratio"]["value"] == pytest.approx(1, abs=0.01)
        assert metrics["flips"]["value"] == 0
        parity = found["parity"]
        assert (parity["equal"], parity["vocabulary"], parity["special"]) == (parity["chats"], 0, {})
        assert parity["template"]
        assert not parity["double_bos"]


def test_what_is_missing_is_named(tmp_path: Path, base: Parent, data: Parent) -> None:
    both = {"model": base, "base": base, "reference": base, "dataset": data}
    short = tmp_path / "short"
    shutil.copytree(data.path, short)
    pq.write_table(pq.read_table(data.path / "test.parquet").slice(0, 1), short / "test.parquet")
    few = data.model_copy(update={"path": short})
    heldout = HELDOUT.model_copy(update={"max_items": 1})
    adapted = FidelityTask(reference="base", adapter=True)
    cases: list[tuple[dict[str, Parent], tuple[Any, ...], str]] = [
        ({k: v for k, v in both.items() if k != "reference"}, (heldout, TASK), "no reference was given"),
        (both, (heldout, adapted), "no reference_adapter was given"),
        ({**both, "dataset": few}, (heldout, TASK), "test.parquet has 1 chats"),
        ({**both, "model": base}, (MergeBaseTask(),), "no rival was given"),
    ]
    for number, (parents, tasks, said) in enumerate(cases):
        with pytest.raises(InvalidInput, match=said):
            run(tmp_path / str(number), parents, *tasks)
        assert not (tmp_path / str(number) / "results.json").exists()


def test_tasks_that_make_no_sense_together_are_refused() -> None:
    for tasks, said in (
        ((TASK,), "give a task beside it"),
        ((HELDOUT, TASK, FidelityTask(name="b", chats=7)), "give all one size"),
        ((HELDOUT, MergeBaseTask()), "stands alone"),
    ):
        with pytest.raises(ValidationError, match=said):
            EvaluateConfig(tasks=tasks)


def test_a_damaged_reference_leaves_no_scratch(
    tmp_path: Path, base: Parent, noisy: Parent, data: Parent
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(base.path, broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = math.nan
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    reference = base.model_copy(update={"path": broken})
    parents = {"model": noisy, "base": base, "reference": reference, "dataset": data}
    with pytest.raises(Diverged):
        run(tmp_path / "out", parents, HELDOUT, TASK)
    assert not (tmp_path / "out" / SCRATCH).exists()
    with pytest.raises(Diverged, match=r"1 of its tensors: model\.layers\.1\.mlp\.up_proj\.weight"):
        run(tmp_path / "other", {**parents, "model": reference}, HELDOUT)


def test_parity_tells_a_changed_tokenizer(tmp_path: Path, base: Parent) -> None:
    changed = tmp_path / "model"
    shutil.copytree(base.path, changed)
    settings = json.loads((changed / "generation_config.json").read_text())
    (changed / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": 0}))
    template = changed / "chat_template.jinja"
    template.write_text("{{ bos_token }}" + template.read_text())
    chats = [[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes"}]]
    found = compare_readers(changed, base.path, load_tokenizer(base.path), chats)
    assert found["special"] == {"stop": [[0], [2]]}
    assert (found["equal"], found["double_bos"], found["template"]) == (0, True, False)
    assert found["first_difference"].startswith("from token 1 on [1, ")
    assert found["vocabulary"] == 0
    tree = json.loads((changed / "tokenizer.json").read_text())
    words = tree["model"]["vocab"]
    first, second = list(words)[30000:30002]
    words[first], words[second] = words[second], words[first]
    (changed / "tokenizer.json").write_text(json.dumps(tree))
    found = compare_readers(changed, base.path, load_tokenizer(base.path), [])
    assert found["vocabulary"] == 2, "though no chat may hold them"


def test_intervals_over_chats_hold_what_they_promise() -> None:
    """Tokens of a chat share an effect; an interval over single tokens would be far too short."""
    draw = np.random.default_rng(1)
    lengths = draw.integers(5, 30, size=50)
    chat = np.repeat(np.arange(50), lengths)
    held = 0
    for _ in range(100):
        values = draw.normal(1.0, 0.5, size=50)[chat] + draw.normal(0, 0.2, size=len(chat))
        found = ByChat(chat, 50).mean(values)
        held += found["low"] <= 1.0 <= found["high"]
    assert 88 <= held <= 100
    alone = ByChat(chat, 50).share(np.ones(len(chat)))
    assert (alone["value"], alone["high"]) == (1.0, 1.0)
    assert 0.9 < alone["low"] < 0.95, "Wilson's interval of 50 chats"


def evidence(low: float, high: float, gained: int = 0, lost: int = 0, nearer: str = "nf4") -> MergeEvidence:
    return MergeEvidence(
        chats=64,
        loss={"16bit": 1.0, "nf4": 1.0 - (low + high) / 2},
        loss_difference=Estimate(value=(low + high) / 2, low=low, high=high),
        right={"16bit": 0.5, "nf4": 0.5},
        gained=gained,
        lost=lost,
        compared=64,
        kl={"16bit": 0.1 if nearer == "nf4" else 0.001, "nf4": 0.01},
    )


@pytest.mark.parametrize(
    ("given", "chosen", "by"),
    [
        (evidence(0.01, 0.03), "nf4", "loss"),
        (evidence(-0.03, -0.01), "16bit", "loss"),
        (evidence(0.01, 0.03, gained=30), "nf4", "loss"),
        (evidence(-0.01, 0.01, gained=20), "16bit", "score"),
        (evidence(-0.01, 0.01, lost=20), "nf4", "score"),
        (evidence(-0.01, 0.01, gained=2, lost=1), "nf4", "nearness"),
        (evidence(-0.01, 0.01, nearer="16bit"), "16bit", "nearness"),
    ],
)
def test_the_fold_is_chosen_by_loss_then_score_then_nearness(
    given: MergeEvidence, chosen: str, by: str
) -> None:
    decision = decide(given)
    assert (decision.chosen, decision.by) == (chosen, by)
    assert "95 % confidence, 64 chats" in decision.reason


def test_a_misread_group_size_is_refused(tmp_path: Path) -> None:
    tensors = {"a.qweight": torch.zeros(32, 8, dtype=torch.int32), "a.scales": torch.zeros(4, 8)}
    save_file(tensors, tmp_path / "model.safetensors")
    settings = {"quantization_config": {"bits": 4, "group_size": 64}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    require_group_size(tmp_path)
    settings["quantization_config"]["group_size"] = 128
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(InvalidInput, match="group_size 128, but a holds 4 groups of 64"):
        require_group_size(tmp_path)
