"""evaluate: every kind of model on the same items, items that can be paired, errors that say why."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from flows.gates.gate import GatePolicy, decide, load_evidence
from registry.errors import Incompatible
from stages.config.evaluate import EvaluateConfig, HeldoutTask
from stages.contract import Parent
from stages.errors import Diverged, InvalidInput
from tests.stages.backends.evaluate.asking import NF4, chat, config, run, write_dataset

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pico_adapter(pico_base: Parent, tmp_path_factory: pytest.TempPathFactory) -> Parent:
    """An adapter that changes every answer: B is not zero."""
    folder = tmp_path_factory.mktemp("adapter")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_pretrained(pico_base.path, dtype=torch.float32)
        config = peft.LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", init_lora_weights=False)
        peft.get_peft_model(model, config).save_pretrained(folder)
    return Parent(id="7" * 64, kind="adapter", path=folder, base=pico_base.base)


def test_every_kind_of_model_is_measured_on_the_same_items(
    tmp_path: Path,
    pico_base: Parent,
    pico_adapter: Parent,
    pico_gguf: Parent,
    pico_gptq: Parent,
    topics: Parent,
) -> None:
    both = {"model": pico_base, "dataset": topics}
    nf4, asked = config(nf4=NF4, questions=("Who?", "What?")), config()
    runs = {
        "nf4": run(tmp_path, "nf4", both, nf4),
        "tuned": run(tmp_path, "tuned", {**both, "adapter": pico_adapter}, nf4),
        "16-bit": run(tmp_path, "16-bit", both, asked),
        "gptq": run(tmp_path, "gptq", {"model": pico_gptq, "base": pico_base, "dataset": topics}, asked),
        "gguf": run(tmp_path, "gguf", {"model": pico_gguf, "base": pico_base, "dataset": topics}, asked),
    }
    seen = {name: load_evidence(out, name) for name, (_, out) in runs.items()}
    assert [evidence.problems for evidence in seen.values()] == [()] * 5
    policy = GatePolicy.model_validate(
        {
            "tasks": [
                {
                    "task": "routing",
                    "metric": "exact_match",
                    "role": "keep",
                    "against": "baseline",
                    "margin": 0.9,
                }
            ]
        }
    )
    for evidence in seen.values():
        decision = decide(policy, evidence, {"baseline": seen["nf4"]})
        assert (decision.verdict, decision.rules[0].n) == ("pass", 20)
    assert [evidence.subject for evidence in seen.values()] == [
        pico_base.id, pico_adapter.id, pico_base.id, pico_gptq.id, pico_gguf.id,
    ]  # fmt: skip
    answers = {name: json.loads((out / "answers.json").read_text()) for name, (_, out) in runs.items()}
    assert [row["question"] for row in answers["nf4"]] == ["Who?", "What?"]
    assert answers["nf4"] != answers["tuned"]
    assert answers["16-bit"] == []


def test_facts_say_what_was_measured(tmp_path: Path, pico_base: Parent, topics: Parent) -> None:
    parents = {"model": pico_base, "dataset": topics}
    plain, _ = run(tmp_path, "plain", parents, config())
    packed, _ = run(tmp_path, "packed", parents, config(nf4=NF4))
    found = plain.metrics
    assert plain.kind == "evaluation"
    assert found["measured_on"] == f"routing: 20 items of the test split of dataset {topics.id[:12]}"
    assert found["computed_with"].startswith("bfloat16 weights, computed in float32 with transformers")
    assert found["bytes"] == pico_base.metrics["bytes"]
    assert found["bits_per_weight"] == pytest.approx(16)
    assert packed.metrics["computed_with"].startswith("NF4 with double quantization, computed in float32")
    linear = 2 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 512)
    rest = pico_base.metrics["parameters"] - linear
    stored = 2 * rest + 4.13 * linear / 8  # whatever type it is held in to be computed with
    assert packed.metrics["bytes"] == pytest.approx(stored, rel=0.001)
    bits = 8 * stored / pico_base.metrics["parameters"]
    assert packed.metrics["bits_per_weight"] == pytest.approx(bits, rel=0.001)
    assert bits < 16, "the embedding is most of this model, and stored in 16 bits"
    metric = found["tasks"]["routing"]["exact_match"]
    assert {"value", "low", "high", "n"} <= metric.keys()
    assert (metric["low"], metric["n"]) == (0.0, 20)


def test_a_second_evaluation_writes_the_same_bytes(tmp_path: Path, pico_base: Parent, topics: Parent) -> None:
    parents = {"model": pico_base, "dataset": topics}
    (first, one), (second, two) = (run(tmp_path, name, parents, config()) for name in ("one", "two"))
    assert first == second
    assert sorted(f.name for f in one.iterdir()) == ["answers.json", "results.json", "samples_routing.jsonl"]
    assert all(file.read_bytes() == (two / file.name).read_bytes() for file in one.iterdir())


def test_an_item_longer_than_the_context_is_named(tmp_path: Path, pico_base: Parent) -> None:
    long = chat(0, "x")
    long[1]["content"] = "word " * 300
    data = write_dataset(tmp_path / "long", [chat(1, "x"), long])
    given = EvaluateConfig(tasks=(HeldoutTask(),), context_length=256)
    with pytest.raises(InvalidInput, match=r"item with prompt \w{12}.*needs \d+ tokens.*holds 256"):
        run(tmp_path, "out", {"model": pico_base, "dataset": data}, given)
    assert list((tmp_path / "out").iterdir()) == []


def test_damaged_weights_are_not_measured(tmp_path: Path, pico_base: Parent, topics: Parent) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(pico_base.path, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][3] = math.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    model = pico_base.model_copy(update={"path": broken})
    with pytest.raises(Diverged, match="NaN or infinite logits"):
        run(tmp_path, "out", {"model": model, "dataset": topics}, config())


def test_combinations_that_make_no_sense_are_refused(
    tmp_path: Path, pico_base: Parent, pico_gguf: Parent, pico_adapter: Parent, topics: Parent
) -> None:
    gguf = {"model": pico_gguf, "base": pico_base, "dataset": topics}
    assert pico_base.base is not None
    other = pico_base.base.model_copy(update={"weights_digest": "0" * 64})
    retokenized = pico_base.base.model_copy(update={"tokenizer_digest": "0" * 64})
    stranger = pico_base.model_copy(update={"base": retokenized})
    bare, foreign = {"model": pico_base}, pico_adapter.model_copy(update={"base": other})
    cases: list[tuple[dict[str, Parent], EvaluateConfig, type[Exception], str]] = [
        ({"model": pico_gguf}, config(), InvalidInput, "needs its base beside it"),
        (gguf, config(nf4=NF4), InvalidInput, "already quantized .GGUF., but nf4 is set"),
        (
            {**gguf, "adapter": pico_adapter},
            config(),
            InvalidInput,
            "already quantized .GGUF., but a PEFT adapter",
        ),
        ({"model": topics}, config(), InvalidInput, "holds no model that can be measured"),
        (bare, config(), InvalidInput, "no prepared dataset was given"),
        ({**bare, "adapter": foreign}, config(), Incompatible, "was trained on"),
        ({**gguf, "base": stranger}, config(), Incompatible, "with another tokenizer"),
    ]
    for number, (parents, given, error, said) in enumerate(cases):
        with pytest.raises(error, match=said):
            run(tmp_path, str(number), parents, given)


def test_a_broken_gguf_is_named(tmp_path: Path, pico_base: Parent, topics: Parent) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(b"GGUF" + bytes(40))
    model = Parent(id="5" * 64, kind="quantized", path=folder)
    with pytest.raises(InvalidInput, match=r"model\.gguf: llama\.cpp .* cannot load this file"):
        run(tmp_path, "out", {"model": model, "base": pico_base, "dataset": topics}, config())


def test_too_many_answers_to_choose_from(tmp_path: Path, pico_base: Parent) -> None:
    data = write_dataset(tmp_path / "data", [chat(k, f"answer {k}") for k in range(65)])
    with pytest.raises(InvalidInput, match="2 to 64 distinct answers in the dataset, found 65"):
        run(tmp_path, "out", {"model": pico_base, "dataset": data}, config())
