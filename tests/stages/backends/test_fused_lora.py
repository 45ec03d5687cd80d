"""Fused LoRA: what PEFT computes, and its gradients, with less kept and no copy for each module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import peft
import pytest
import torch
from bitsandbytes.nn import Linear4bit
from torch import nn
from torch.utils.checkpoint import checkpoint

from stages.backends import nf4
from stages.backends.train.fused_lora import _kept, fused_lora

WIDTH, INNER, ROWS = 64, 96, 24


class Block(nn.Module):
    """Two layers that read the same, one of which has a bias, and one that reads their product."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(WIDTH, INNER), nn.Linear(WIDTH, INNER, bias=False)
        self.down = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.tanh(self.gate(x)) * self.up(x))


def in_nf4(layer: nn.Linear) -> Linear4bit:
    packed = Linear4bit(layer.in_features, layer.out_features, layer.bias is not None, quant_type="nf4")
    packed.load_state_dict(layer.state_dict())
    return packed.to("cpu")


def adapted(packed: bool = False, **settings: Any) -> peft.PeftModel:
    torch.manual_seed(0)
    block = Block()
    if packed:
        for name, layer in list(block.named_children()):
            block.set_submodule(name, in_nf4(layer))
    settings = {"lora_dropout": 0.0, "target_modules": ["gate", "up", "down"], **settings}
    model = peft.get_peft_model(block, peft.LoraConfig(r=4, lora_alpha=12, **settings))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    return model.train()


def drawn() -> torch.Tensor:
    return torch.randn(2, ROWS, WIDTH, generator=torch.Generator().manual_seed(1)).requires_grad_()


def results(model: peft.PeftModel, fused: bool, bf16: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
    """What it answers, and the gradients of a sum of squares."""
    model.zero_grad()
    x = drawn()
    with fused_lora(model) if fused else nullcontext(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = model(x)
        (y.float() ** 2).sum().backward()
    yield "y", y.detach().float()
    yield "x", x.grad
    yield from (
        (name, weight.grad.clone()) for name, weight in model.named_parameters() if weight.requires_grad
    )


@pytest.mark.parametrize("packed", [False, True], ids=["dequantized", "packed"])
def test_answers_and_gradients_are_pefts(packed: bool) -> None:
    model = adapted(packed)
    ours = dict(results(model, fused=True))
    assert len(ours) == 2 + 6
    for name, theirs in results(model, fused=False):
        torch.testing.assert_close(
            ours[name], theirs, rtol=1e-4, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_in_16_bits_it_is_no_further_from_the_truth_than_peft() -> None:
    model = adapted()
    truth = dict(results(model, fused=False))
    for (name, ours), (_, theirs) in zip(
        results(model, fused=True, bf16=True), list(results(model, fused=False, bf16=True)), strict=True
    ):
        wrong, usual = ((found - truth[name]).norm() for found in (ours, theirs))
        assert 0 < wrong < 1.3 * usual, name


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_gradients_are_those_of_differences(dropout: float) -> None:
    """In float64, with the same numbers dropped each time."""
    model = adapted(lora_dropout=dropout).double()
    weights = [weight for weight in model.parameters() if weight.requires_grad]

    def answer(x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)
        return model(x)[..., :3].sum(-1)

    with fused_lora(model):
        assert torch.autograd.gradcheck(answer, (drawn()[:1, :2].double(), *weights), raise_exception=True)


def test_as_many_are_dropped_as_asked_and_others_each_time() -> None:
    torch.manual_seed(0)
    kept, again = (_kept(torch.Size([500, 403]), 0.05) for _ in range(2))
    assert kept.shape == (500, 403)
    assert float(kept.float().mean()) == pytest.approx(0.95, abs=0.002)
    assert float((kept & again).float().mean()) == pytest.approx(0.95**2, abs=0.003)
    torch.manual_seed(0)
    assert torch.equal(_kept(torch.Size([500, 403]), 0.05), kept), (
        "the seed is torch's, as checkpoints keep it"
    )


def test_what_is_left_counts_as_all() -> None:
    """On average an adapter with dropout adds what it adds without."""
    model, x = adapted(lora_dropout=0.25), drawn().detach()
    with fused_lora(model), torch.no_grad():
        mean = torch.stack([model.base_model.model.gate(x) for _ in range(2000)]).mean(0)
        exact = model.eval().base_model.model.gate(x)
        base = model.base_model.model.gate.base_layer(x)
    assert (mean - exact).norm() < 0.05 * (exact - base).norm()


def test_layers_that_read_the_same_keep_one_copy_of_it() -> None:
    model, copies = adapted(), []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype == torch.bfloat16 and tensor.shape == (2, ROWS, WIDTH):
            copies.append(tensor.data_ptr())
        return tensor

    saved = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with fused_lora(model), torch.autocast("cpu", torch.bfloat16), saved:
        y = model(drawn())
    y.float().sum().backward()
    assert len(copies) == 2
    assert len(set(copies)) == 1


def test_an_input_that_was_changed_in_place_is_read_again() -> None:
    model, x = adapted(), drawn().detach()
    gate, up = model.base_model.model.gate, model.base_model.model.up
    with fused_lora(model), torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        gate(x)
        x.mul_(2)
        found = up(x)
        expected = up(x.clone())
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_recomputed_it_drops_the_same(dropout: float) -> None:
    model, x = adapted(lora_dropout=dropout), drawn()
    found = []
    with fused_lora(model):
        for again in (False, True):
            torch.manual_seed(7)
            model.zero_grad()
            (checkpoint(model, x, use_reentrant=False) if again else model(x)).sum().backward()
            found.append(model.base_model.model.gate.lora_A["default"].weight.grad.clone())
    assert torch.equal(*found)


def test_without_the_adapter_it_is_the_base() -> None:
    model, x = adapted(), drawn().detach()
    with fused_lora(model), model.disable_adapter(), torch.no_grad():
        assert torch.equal(model(x), model.unload()(x))


@pytest.mark.parametrize(
    "settings", [{"use_dora": True}, {"lora_bias": True, "target_modules": ["gate"]}], ids=["dora", "bias"]
)
def test_what_peft_does_besides_is_left_to_peft(settings: dict[str, Any]) -> None:
    model = adapted(**settings)
    with fused_lora(model):
        assert not any("forward" in vars(layer) for layer in model.modules())


def test_afterwards_all_is_as_before() -> None:
    model = adapted()
    with fused_lora(model):
        assert sum("forward" in vars(layer) for layer in model.modules()) == 3
    assert not any("forward" in vars(layer) for layer in model.modules())


def test_values_of_a_layer_in_nf4() -> None:
    layer = nn.Linear(WIDTH, INNER, bias=False)
    packed = in_nf4(layer)
    assert torch.equal(nf4.values(layer, torch.float32), layer.weight)
    assert (
        0.9
        < torch.nn.functional.cosine_similarity(
            nf4.values(packed, torch.float32).flatten(), layer.weight.flatten(), dim=0
        )
        < 1
    )
