"""Rounding to nearest as a reference: on the grid, by groups, and larger for fewer bits."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from registry.artifacts import QuantSpec
from stages.backends.chat import load_tokenizer
from stages.backends.evaluate.fidelity.distances import Chats
from stages.backends.evaluate.fidelity.rounding import round_to_nearest, rounding_cost
from stages.backends.evaluate.torch_lm import TorchLM
from stages.backends.pico import pico_model
from stages.contract import Parent
from stages.quantization.distance import beyond_usual, grid_of, quantization_name
from stages.quantization.method import Grid


def test_each_group_is_on_its_own_grid(pico_base: Parent) -> None:
    network = pico_model(0, load_tokenizer(pico_base.path))
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    round_to_nearest(network, Grid(bits=3, group=64, ends=False))
    after = {name: weight.detach() for name, weight in network.named_parameters()}
    name = "model.layers.0.mlp.up_proj.weight"
    for exact, rounded in zip(before[name].reshape(-1, 64)[:9], after[name].reshape(-1, 64)[:9], strict=True):
        step = exact.abs().max() / 3.5
        assert len(rounded.unique()) <= 8
        assert float((rounded - exact).abs().max()) <= float(step) / 2 + 1e-6
    untouched = ("model.embed_tokens.weight", "model.norm.weight")
    assert all(torch.equal(before[one], after[one]) for one in untouched)
    round_to_nearest(network, Grid(bits=3, group=32, ends=True))
    assert not torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])


def test_fewer_bits_cost_more(pico_base: Parent, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(pico_base.path)
    rows = [tuple(range(start, start + 24)) for start in (100, 400, 900)]
    chats = Chats([[]] * 3, rows, [16] * 3, [[True] * 16] * 3, [True] * 3)
    costs = {}
    for bits in (8, 4, 2):
        lm = TorchLM(
            pico_model(0, tokenizer), tokenizer, max_length=64, batch_size=3, stop_ids=frozenset(),
            rendered=True,
        )  # fmt: skip
        found = rounding_cost(lm, chats, len(tokenizer), Grid(bits, 64, ends=False), tmp_path)
        costs[bits] = found["kl_mean"]["value"]
        assert (found["bits"], found["kl_mean"]["n"]) == (bits, 3)
    assert 0 < costs[8] < costs[4] < costs[2]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("quant", "name", "grid"),
    [
        (QuantSpec(method="gptq", requested={"bits": 4, "group_size": 64}), "gptq-4", Grid(4, 64, False)),
        (QuantSpec(method="gguf", requested={"type": "Q4_K_M"}), "Q4_K_M", Grid(4, 32, True)),
        (QuantSpec(method="gguf", requested={"type": "IQ4_XS"}), "IQ4_XS", Grid(4, 32, True)),
        (QuantSpec(method="gguf", requested={"type": "F16"}), "F16", None),
        (QuantSpec(method="none"), "none", None),
        (None, "none", None),
    ],
)
def test_a_type_says_what_to_round_to(quant: QuantSpec | None, name: str, grid: Grid | None) -> None:
    assert (quantization_name(quant), grid_of(quant)) == (name, grid)


@pytest.mark.parametrize(("low", "beyond"), [(0.29, False), (0.31, True), (math.inf, True)])
def test_only_what_is_far_is_looked_into(low: float, beyond: bool) -> None:
    quant = QuantSpec(method="gptq", requested={"bits": 4, "group_size": 64})
    assert beyond_usual(quant, {"metrics": {"kl_mean": {"low": low}}}) is beyond
