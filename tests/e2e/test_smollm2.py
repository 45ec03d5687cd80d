"""The demo on the real 135M model, with fewer steps and items: does what is promised come true?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from stages.backends.chat import encode, load_tokenizer
from stages.backends.gguf.packaged import _llama_cpp_ids
from tests.e2e.conftest import Tuneline, states
from tests.seconds import seconds

pytestmark = pytest.mark.e2e
Demo = tuple[Tuneline, dict[str, Any]]
CHAT = [
    {"role": "system", "content": "Name the topic."},
    {"role": "user", "content": "Who won in   1998?\n\n\tNaïve — 日本語 🙂 x+10"},
]
FEWER = (
    "train.max_steps=32",
    "train.evaluations=1",
    "evaluate.tasks.0.max_items=32",
    "ladder.chats=16",
    "quantize.0.calibration_rows=16",
    "gate.tasks.1.margin=0.2",  # 32 items cannot show a drop of less than 5 points
)


@pytest.fixture(scope="module")
def demo(tuneline_home: Callable[[str], Tuneline]) -> Demo:
    tuneline = tuneline_home("demo")
    overrides = [word for change in FEWER for word in ("--set", change)]
    return tuneline, tuneline.json("run", "demo", *overrides, timeout=seconds(2700))


def path_of(demo: Demo, label: str) -> Path:
    tuneline, document = demo
    row = next(row for row in document["stages"] if row["label"] == label)
    return Path(tuneline.json("artifacts", "show", row["artifact_id"])["path"])


@pytest.mark.timeout(seconds(2800))  # six minutes on an idle machine
def test_the_whole_chain_ends_at_an_endpoint(demo: Demo) -> None:
    _, document = demo
    assert document["exit_code"] == 0, [row for row in document["stages"] if row["state"] == "failed"]
    assert set(states(document).values()) == {"ran"}
    assert document["gate"]["verdict"] == "pass"
    assert document["channel"]["artifact_id"] == document["endpoint"]["artifact_id"]


def test_tuned_beats_the_quantized_base_beyond_chance(demo: Demo) -> None:
    scores = {row["label"]: row["scores"] for row in demo[1]["models"]}
    base = scores.pop("base NF4")
    for label, tuned in scores.items():
        for metric in ("routing exact_match", "routing choice_acc"):
            assert tuned[metric]["low"] > base[metric]["high"], (label, metric)


def test_sizes_and_bits_are_the_files_own(demo: Demo) -> None:
    rows = {row["label"]: row for row in demo[1]["models"]}
    assert 4 < rows["gguf-q4_k_m"]["bits_per_weight"] < 6.5
    assert 8 < rows["gguf-q8_0"]["bits_per_weight"] < 9
    assert rows["gguf-q8_0"]["bytes"] == (path_of(demo, "quantize gguf-q8_0") / "model.gguf").stat().st_size
    assert rows["merged float16"]["bits_per_weight"] == 16


def test_merged_logits_are_those_of_base_and_adapter(demo: Demo) -> None:
    labels = ("resolve base", "train adapter", "merge into 16bit")
    base, adapter, merged = (path_of(demo, label) for label in labels)
    ids = torch.tensor([encode(load_tokenizer(base), CHAT, add_generation_prompt=True)])
    with torch.inference_mode():
        live = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        expected = PeftModel.from_pretrained(live, adapter)(ids).logits
        found = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)(ids).logits
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()
    assert torch.equal(found[0, -1].argmax(), expected[0, -1].argmax())


def test_gguf_tokenizes_like_the_base(demo: Demo) -> None:
    tokenizer = load_tokenizer(path_of(demo, "resolve base"))
    rendered = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    expected = encode(tokenizer, CHAT, add_generation_prompt=True)
    assert _llama_cpp_ids(path_of(demo, "quantize gguf-q4_k_m") / "model.gguf", rendered) == expected


def test_gptq_directory_serves_older_stacks(demo: Demo) -> None:
    folder = path_of(demo, "quantize gptq-4bit")
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_theta"] > 0
    assert config["torch_dtype"] == "float16"
    assert json.loads((folder / "quantize_config.json").read_text())["bits"] == 4


def test_effective_quantization_is_recorded(demo: Demo) -> None:
    tuneline, document = demo
    row = next(row for row in document["stages"] if row["label"] == "quantize gguf-q4_k_m")
    quant = tuneline.json("artifacts", "show", row["artifact_id"])["quant"]
    assert quant["requested"]["type"] == "Q4_K_M"
    assert "fallbacks" in str(quant["effective"])
    chosen = document["ladder"]["merge_base"]
    assert quant["merge_base"] == chosen["chosen"]
    assert "held-out loss" in chosen["reason"]


def test_the_ladder_holds(demo: Demo) -> None:
    ladder = demo[1]["ladder"]
    assert ladder["breaks_at"] is None, ladder["cause"]
    kl = {rung["label"]: rung["figures"]["kl_mean"]["value"] for rung in ladder["rungs"] if rung["figures"]}
    assert kl["gguf-q8_0"] < kl["gguf-q4_k_m"] < kl["tuned NF4 + adapter"]
    assert demo[1]["endpoint"]["config"]["probe"]["same_prompt"] == 4


def test_adapter_carries_where_it_belongs(demo: Demo) -> None:
    record = json.loads((path_of(demo, "train adapter") / "tuneline.json").read_text())
    for key in ("revision", "weights_digest", "tokenizer_digest", "chat_template_digest"):
        assert record["base"][key]
    assert record["quant"]["requested"]["quant_type"] == "nf4"
    assert record["quant"]["effective"]["quant_type"] == "nf4"
