"""The names of an adapter's tensors, as PEFT writes them."""

from __future__ import annotations

import pytest

from registry.compat.peft import AdapterTensor, adapter_tensor

Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (f"{Q}.lora_A.weight", AdapterTensor(f"{Q}.weight", "lora_A")),
        (f"{Q}.lora_B.default.weight", AdapterTensor(f"{Q}.weight", "lora_B")),
        (f"{Q}.lora_magnitude_vector", AdapterTensor(f"{Q}.weight", "lora_magnitude_vector")),
        (f"{Q}.lora_B.bias", AdapterTensor(f"{Q}.bias", "lora_B")),
        (f"{Q}.lora_A.bias", AdapterTensor(f"{Q}.lora_A.bias")),
        (f"{Q}.base_layer.bias", AdapterTensor(f"{Q}.bias")),
        (
            "model.embed_tokens.lora_embedding_A",
            AdapterTensor("model.embed_tokens.weight", "lora_embedding_A"),
        ),
        ("lm_head.modules_to_save.default.weight", AdapterTensor("lm_head.weight")),
        ("lm_head.modules_to_save.weight", AdapterTensor("lm_head.weight")),
        ("lm_head.weight", AdapterTensor("lm_head.weight")),
        ("lm_head.original_module.weight", AdapterTensor("lm_head.weight", untrained=True)),
    ],
)
def test_what_a_tensor_is_to_the_base(key: str, expected: AdapterTensor) -> None:
    assert adapter_tensor(f"base_model.model.{key}") == expected


def test_a_module_is_what_its_tensor_belongs_to() -> None:
    assert adapter_tensor(f"base_model.model.{Q}.lora_B.bias").module == Q
