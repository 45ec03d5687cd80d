"""GPTQ on a GPU beside the parent's answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from stages.backends.gptq.load import packed_gptq
from stages.contract import Parent
from stages.quantization.gptq import GptqConfig
from stages.quantize import quantize
from tests.stages.quantizing import TEXT, dataset_of, effective_of, hf_logits, kl

pytestmark = pytest.mark.gpu


def test_gptq_of_a_gpu_is_near_its_parent(pico_base: Parent, tmp_path: Path) -> None:
    data = dataset_of(tmp_path / "data", 40)
    config = GptqConfig(group_size=64, calibration_rows=16)
    facts = quantize({"model": pico_base, "dataset": data}, config, tmp_path / "gptq")
    assert effective_of(facts)["bits"] == 4
    model, _ = packed_gptq(tmp_path / "gptq", on_cpu=False)
    ids = AutoTokenizer.from_pretrained(pico_base.path)(
        TEXT, return_tensors="pt", add_special_tokens=False
    ).input_ids
    with torch.no_grad():
        found = model(input_ids=ids.cuda()).logits[0].float().cpu()
    assert kl(hf_logits(pico_base.path), found) < 0.5
