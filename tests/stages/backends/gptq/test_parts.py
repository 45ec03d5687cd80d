"""What a quantization to GPTQ is checked against, and what it says of itself."""

from __future__ import annotations

from typing import Any

import pytest

from stages.backends.gptq.export import legacy_config
from stages.backends.gptq.quantize import check_group_size, summary
from stages.errors import InvalidInput
from stages.formats.model_directory import TensorHeader


def test_group_size_that_does_not_divide_names_those_that_do() -> None:
    headers = {
        "model.embed_tokens.weight": TensorHeader("F16", (49152, 500), 0),
        "model.layers.0.mlp.down_proj.weight": TensorHeader("F16", (576, 1536), 0),
        "model.layers.0.mlp.up_proj.weight": TensorHeader("F16", (1536, 576), 0),
        "model.layers.0.input_layernorm.weight": TensorHeader("F16", (576,), 0),
    }
    check_group_size(headers, 64)
    check_group_size(headers, -1)
    with pytest.raises(InvalidInput, match=r"128 does not divide .*up_proj\.weight \(576 .* 64, 32, -1"):
        check_group_size(headers, 128)


def test_rows_of_gpt2_are_its_inputs_whatever_its_files_leave_out() -> None:
    headers = {"h.0.attn.c_attn.weight": TensorHeader("F16", (96, 288), 0)}
    module = frozenset({"transformer.h.0.attn.c_attn"})
    check_group_size(headers, 32, module)
    with pytest.raises(InvalidInput, match=r"64 does not divide .*c_attn\.weight \(96 weights.* 32, -1"):
        check_group_size(headers, 64, module)


def test_scaled_rope_is_told_to_transformers_4() -> None:
    rope = {"rope_type": "llama3", "factor": 8.0, "rope_theta": 500000.0}
    config = legacy_config({"rope_parameters": rope}, "float16")
    assert config["rope_theta"] == 500000.0
    assert config["rope_scaling"] == {"rope_type": "llama3", "type": "llama3", "factor": 8.0}
    assert "rope_scaling" not in legacy_config({"rope_parameters": {"rope_theta": 1e4}}, "float16")


def test_modules_that_gptq_could_not_do_are_named() -> None:
    def row(layer: int, module: str, loss: float | None, damp: float) -> dict[str, Any]:
        return {"layer": layer, "module": module, "loss": loss, "samples": 9, "damp": damp}

    found = summary(
        [row(0, "a", 0.5, 0.05), row(0, "b", None, 1.0), row(1, "a", 0.25, 0.12)], 0.05, {"layers.1.c"}
    )
    assert found["loss_by_layer"] == [0.5, 0.25]
    assert found["damping_raised"] == {"1.a": 0.12}
    assert found["fallbacks"] == ["0.b", "layers.1.c"]
