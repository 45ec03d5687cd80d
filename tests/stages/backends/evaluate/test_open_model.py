"""Quantized models are measured with their own values, dense as they are computed with on a CPU."""

from __future__ import annotations

import pytest
import torch

from stages.backends.evaluate.open_model import open_model
from stages.backends.evaluate.torch_lm import TorchLM
from stages.backends.nf4 import load_nf4
from stages.contract import Parent
from tests.stages.backends.evaluate.asking import NF4, config, instances, pairs, settings

pytestmark = pytest.mark.usefixtures("one_thread")


def test_nf4_is_measured_with_its_own_values(pico_base: Parent, topics: Parent) -> None:
    """The dense layers used on a CPU hold what the packed ones hold, rounded to bfloat16 as in training."""

    measured = open_model({"model": pico_base, "dataset": topics}, config(nf4=NF4)).lm
    packed = TorchLM(
        load_nf4(pico_base.path, NF4, "packed"),
        measured.tokenizer,
        max_length=512,
        **settings(measured.tokenizer),
    )
    requests = instances("loglikelihood", pairs(measured.tokenizer))
    ours, theirs = [
        [s for s, _ in lm.loglikelihood(requests, disable_tqdm=True)] for lm in (measured, packed)
    ]
    assert ours == pytest.approx(theirs, abs=0.01)


def test_gptq_is_measured_with_its_own_values(pico_gptq: Parent, torch_lm: TorchLM) -> None:
    """Dense layers in float32 against GPTQModel's kernel in float16, which dequantizes at every call."""
    from gptqmodel import BACKEND, GPTQModel

    with torch.compiler.set_stance("fail_on_recompile"):  # to compile takes long, and may go wrong
        measured = open_model({"model": pico_gptq}, config())
    kernel = GPTQModel.load(
        str(pico_gptq.path), device="cpu", backend=BACKEND.GPTQ_TORCH, dtype=torch.float16
    ).model
    packed = TorchLM(kernel, torch_lm.tokenizer, max_length=512, **settings(torch_lm.tokenizer))
    requests = instances("loglikelihood", pairs(torch_lm.tokenizer)[:12])
    with torch.compiler.set_stance(
        "force_eager"
    ):  # nor is the library's kernel compiled, whose cache is shared
        ours, theirs, parents = [
            [score for score, _ in lm.loglikelihood(requests)] for lm in (measured.lm, packed, torch_lm)
        ]
    assert ours == pytest.approx(theirs, abs=0.003)
    assert max(abs(a - b) for a, b in zip(ours, parents, strict=True)) > 0.01, "nothing was quantized"
    assert "float16 scales, computed in float32" in measured.description
