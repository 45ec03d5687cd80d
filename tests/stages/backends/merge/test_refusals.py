"""What cannot be merged exactly: one message that names the thing, and nothing left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from registry.errors import Incompatible
from stages.config.merge import MergeConfig
from stages.contract import Parent
from stages.errors import InsufficientResources, InvalidInput
from stages.merge import merge
from tests.stages.backends.merge.merging import (
    ADAPTER,
    BASE,
    PEFT_NOTICES,
    Q,
    edit_json,
    edit_tensors,
    parent,
    run,
)

pytestmark = PEFT_NOTICES


DAMAGES: dict[str, tuple[Any, str]] = {
    "pickled adapter": (
        lambda b, a: (a / ADAPTER).rename(a / "adapter_model.bin"),
        "found only adapter_model.bin, which is pickled",
    ),
    "no adapter": (lambda b, a: (a / "adapter_config.json").unlink(), "no adapter_config.json"),
    "pickled base": (lambda b, a: (b / BASE).rename(b / "pytorch_model.bin"), "only pickled weights"),
    "two sets of weights": (
        lambda b, a: (b / "model.safetensors.index.json").write_text("{}"),
        "holds both model.safetensors and model.safetensors.index.json",
    ),
    "quantized base": (
        lambda b, a: edit_json(b / "config.json", quantization_config={"quant_method": "bitsandbytes"}),
        r"is quantized \(bitsandbytes\)",
    ),
    "packed base": (
        lambda b, a: edit_tensors(
            b / BASE,
            lambda t: t.update(
                {"model.layers.0.mlp.up_proj.weight": torch.zeros(4096, 1, dtype=torch.uint8)}
            ),
        ),
        r"model.layers.0.mlp.up_proj.weight \(U8 .*belongs to quantized weights",
    ),
    "another method": (
        lambda b, a: edit_json(a / "adapter_config.json", peft_type="IA3"),
        "is a IA3 adapter",
    ),
    "unknown variant": (
        lambda b, a: edit_json(a / "adapter_config.json", alora_invocation_tokens=[1, 2]),
        r"sets alora_invocation_tokens = \[1, 2\]",
    ),
    "initialised from the base": (
        lambda b, a: edit_json(a / "adapter_config.json", init_lora_weights="pissa_niter_4"),
        "initialised with pissa_niter_4",
    ),
    "another rank": (
        lambda b, a: edit_json(a / "adapter_config.json", r=8),
        r"lora_A.weight has shape .* for rank 8",
    ),
    "half a pair": (
        lambda b, a: edit_tensors(a / ADAPTER, lambda t: t.pop(f"{Q}.lora_B.weight")),
        "expected lora_A and lora_B",
    ),
    "wrong shape": (
        lambda b, a: edit_tensors(a / ADAPTER, lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(4, 63)})),
        r"q_proj.lora_A.weight has shape \(4, 63\), expected \(4, 64\)",
    ),
    "no such module": (
        lambda b, a: edit_tensors(
            a / ADAPTER,
            lambda t: t.update({k.replace("layers.0", "layers.7"): v.clone() for k, v in list(t.items())}),
        ),
        "model.layers.7.*, which the base model does not have",
    ),
    "not a weight of a linear layer": (
        lambda b, a: edit_tensors(
            a / ADAPTER,
            lambda t: t.update({"base_model.model.model.norm.lora_A.weight": torch.ones(4, 64)}),
        ),
        "model.norm is not a Linear, Conv1D or Embedding",
    ),
    "trained tokens": (
        lambda b, a: edit_tensors(
            a / ADAPTER,
            lambda t: t.update(
                {
                    "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": torch.ones(
                        2, 64
                    )
                }
            ),
        ),
        "embed_tokens.token_adapter.trainable_tokens_delta",
    ),
    "stray magnitude": (
        lambda b, a: edit_tensors(
            a / ADAPTER, lambda t: t.update({f"{Q}.lora_magnitude_vector": torch.ones(64)})
        ),
        "use_dora = False, but model.layers.0.self_attn.q_proj has a lora_magnitude_vector",
    ),
    "bias where the base has none": (
        lambda b, a: edit_tensors(a / ADAPTER, lambda t: t.update({f"{Q}.lora_B.bias": torch.ones(64)})),
        "q_proj.lora_B.bias changes model.layers.0.self_attn.q_proj.bias, which the base model does not have",
    ),
    "integers in the adapter": (
        lambda b, a: edit_tensors(
            a / ADAPTER, lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(4, 64, dtype=torch.int8)})
        ),
        "has dtype I8",
    ),
    "NaN in the adapter": (
        lambda b, a: edit_tensors(a / ADAPTER, lambda t: t[f"{Q}.lora_A.weight"].fill_(float("nan"))),
        "adapter tensor .*q_proj.lora_A.weight already holds such values",
    ),
    "infinity in the base": (
        lambda b, a: edit_tensors(b / BASE, lambda t: t["model.norm.weight"].fill_(float("-inf"))),
        "tensor model.norm.weight would hold NaN or infinite values; base tensor model.norm.weight already",
    ),
    "cut file": (
        lambda b, a: (a / ADAPTER).write_bytes((a / ADAPTER).read_bytes()[:-100]),
        "adapter_model.safetensors is not a readable safetensors file",
    ),
    "not a language model": (
        lambda b, a: edit_json(b / "config.json", model_type="vit", architectures=["ViTModel"]),
        "does not describe a causal language model",
    ),
    "unknown architecture": (
        lambda b, a: edit_json(
            b / "config.json", model_type="brandnew", architectures=["BrandNewForCausalLM"]
        ),
        "does not describe a causal language model",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_refused_by_name_and_nothing_left(damage: str, own: tuple[Path, Path], tmp_path: Path) -> None:
    change, message = DAMAGES[damage]
    change(*own)
    with pytest.raises(InvalidInput, match=message):
        run(*own, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_out_of_float16_range_offers_bfloat16(own: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = own
    edit_tensors(adapter / ADAPTER, lambda t: t[f"{Q}.lora_A.weight"].mul_(1e6))
    with pytest.raises(InvalidInput, match=r"q_proj.weight reaches .*merge.dtype: bfloat16") as caught:
        run(base, adapter, tmp_path / "out")
    assert "model.layers.0.self_attn.q_proj.weight" in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []
    facts = run(base, adapter, tmp_path / "out", dtype="bfloat16")
    assert facts.metrics["largest_absolute_value"] > 65504


def test_another_base_is_refused(plain: tuple[Path, Path], pico_base: Parent, tmp_path: Path) -> None:
    assert pico_base.base is not None
    other = pico_base.base.model_copy(update={"weights_digest": "f" * 64})
    adapter = parent(plain[1], "adapter", other)
    with pytest.raises(Incompatible, match="weights_digest"):
        merge({"base": pico_base, "adapter": adapter}, MergeConfig(), tmp_path)
    recorded = shutil.copytree(plain[1], tmp_path / "recorded")
    (recorded / "tuneline.json").write_text(json.dumps({"base": {"id": "a" * 64, **other.model_dump()}}))
    with pytest.raises(Incompatible, match="weights_digest"):
        merge({"base": pico_base, "adapter": parent(recorded, "adapter")}, MergeConfig(), tmp_path)


def test_no_room_is_said_before_writing(
    plain: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(InsufficientResources, match="merged model"):
        run(*plain, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
