"""Merging into NF4: the weights that training saw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from peft import PeftModel
from safetensors.torch import load_file

from stages.backends.merge.layout import layout
from stages.backends.nf4 import load_nf4
from stages.config.train import Nf4Config
from tests.stages.backends.merge.lora_models import (
    distance,
    load,
    logits,
    save_adapter,
    save_gpt2,
    save_llama,
)
from tests.stages.backends.merge.merging import PEFT_NOTICES, TOLERANCE, run

pytestmark = PEFT_NOTICES


def test_nf4_fold_is_what_training_saw(tmp_path: Path) -> None:
    base = save_llama(tmp_path / "base")
    # only q_proj is adapted; every other quantized layer must go through NF4 all the same
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    facts = run(base, adapter, tmp_path / "out", base="nf4", dtype="bfloat16")
    live = load_nf4(base, Nf4Config(), "packed")
    quantized = {name for name, module in live.named_modules() if type(module).__name__ == "Linear4bit"}
    assert layout(base).quantized == quantized
    assert facts.metrics["tensors_rounded_to_nf4"] == len(quantized) == 14
    assert facts.quant is not None
    assert facts.quant.merge_base == "nf4"

    ours = load_file(tmp_path / "out" / "model.safetensors")
    untouched = live.get_submodule("model.layers.1.mlp.down_proj").weight
    dequantized = dequantize_4bit(untouched.data, untouched.quant_state)
    assert torch.equal(ours["model.layers.1.mlp.down_proj.weight"], dequantized)
    original = load_file(base / "model.safetensors")
    for name in ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"):
        assert torch.equal(ours[name], original[name].bfloat16())
    expected = logits(PeftModel.from_pretrained(load_nf4(base, Nf4Config(), "dequantized"), adapter).float())
    assert distance(logits(load(tmp_path / "out", torch.float32)), expected) < TOLERANCE["bfloat16"]
    run(base, adapter, tmp_path / "16bit", dtype="bfloat16")
    other = distance(logits(load(tmp_path / "16bit", torch.float32)), expected)
    assert other > 3 * TOLERANCE["bfloat16"], "the fold must matter for this test"


def test_nf4_uses_the_recorded_double_quantization(own: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = own
    results = []
    for double_quant in (True, False):
        record = {"quant": {"requested": {"double_quant": double_quant}}}
        (adapter / "tuneline.json").write_text(json.dumps(record))
        out = tmp_path / f"out-{double_quant}"
        run(base, adapter, out, base="nf4")
        results.append(load_file(out / "model.safetensors")["model.layers.0.mlp.up_proj.weight"])
    assert not torch.equal(*results)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
def test_conv1d_goes_through_nf4_as_in_training(tmp_path: Path) -> None:
    base = save_gpt2(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["c_fc"], fan_in_fan_out=True)
    run(base, adapter, tmp_path / "out", base="nf4")
    live = load_nf4(base, Nf4Config(), "packed").get_submodule("transformer.h.0.attn.c_attn").weight
    seen_in_training = dequantize_4bit(live.data, live.quant_state).T
    ours = load_file(tmp_path / "out" / "model.safetensors")["transformer.h.0.attn.c_attn.weight"]
    assert torch.equal(ours, seen_in_training.half())
