"""Which type a machine computes in is measured, kept, and changes no value of any weight."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from stages import arithmetic
from stages.arithmetic import MachineSpeed, ProductRates, identity, machine_speed
from stages.backends import nf4
from stages.config.train import Nf4Config
from stages.contract import Parent
from stages.errors import StageError

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


@pytest.fixture
def avx2(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """This machine without whatever came after AVX2."""
    for name, value in AVX2.items():
        monkeypatch.setenv(name, value)
    return dict(os.environ)


def test_without_bfloat16_instructions_the_answer_is_float32(avx2: dict[str, str]) -> None:
    speed = machine_speed(576, 1536, environment=avx2)
    assert speed.compute_dtype == "float32"
    assert speed.ratio < 0.6
    # a list of processors would say the same of both
    assert speed.processor == identity()[1]


def test_with_bfloat16_instructions_the_answer_is_bfloat16() -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported() or "avx512_bf16" not in arithmetic._processor()[1]:
        pytest.skip("this processor has no bfloat16 instructions")
    environment = {name: value for name, value in os.environ.items() if name not in AVX2}
    speed = machine_speed(576, 1536, environment=environment)
    assert (speed.compute_dtype, speed.ratio > 1.2) == ("bfloat16", True)


def test_a_measurement_is_kept_for_the_machine_and_the_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = machine_speed(64, 128, tmp_path)
    monkeypatch.setattr(arithmetic.sys, "executable", "/bin/false")
    assert machine_speed(64, 128, tmp_path) == kept
    with pytest.raises(StageError, match="could not be measured"):
        machine_speed(64, 256, tmp_path)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")  # another machine, as far as speed goes
    with pytest.raises(StageError, match="compute_dtype to float32 or bfloat16"):
        machine_speed(64, 128, tmp_path)


def test_a_damaged_file_in_the_cache_is_measured_again(tmp_path: Path) -> None:
    kept = machine_speed(64, 128, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text("{")
    assert machine_speed(64, 128, tmp_path).identity == kept.identity
    assert MachineSpeed.model_validate_json(file.read_text()).product == kept.product


def test_the_overall_rate_is_that_of_the_slowest_product_where_one_is_slow() -> None:
    assert ProductRates(forward=8e9, grad_input=1e9, grad_weight=8e9).overall == pytest.approx(2.4e9)


@pytest.mark.parametrize("frozen", ["packed", "dequantized"])
def test_either_arithmetic_uses_the_same_nf4_values(pico_base: Parent, frozen: nf4.Frozen) -> None:
    held = {}
    for dtype in ("bfloat16", "float32"):
        model = nf4.load_nf4(pico_base.path, Nf4Config(compute_dtype=dtype), frozen)
        if frozen == "packed":
            nf4.dequantize_in_place(model)
        held[dtype] = model
        assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    for (name, one), (_, other) in zip(
        held["bfloat16"].named_parameters(), held["float32"].named_parameters(), strict=True
    ):
        assert torch.equal(one.float(), other), name


def test_logits_of_both_differ_by_rounding_alone(pico_base: Parent) -> None:
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        one, other = (
            nf4.load_nf4(pico_base.path, Nf4Config(compute_dtype=dtype), "dequantized")(ids).logits.float()
            for dtype in ("bfloat16", "float32")
        )
    assert (one - other).abs().max() < 0.02 * other.abs().max()
    assert not torch.equal(one, other)
