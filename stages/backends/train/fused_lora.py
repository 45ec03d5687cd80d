"""LoRA on frozen linear layers with fewer passes over memory than PEFT's own, for training on a CPU.

y = x Wᵀ + b + s · drop(x) Aᵀ Bᵀ (Hu et al. 2021, arXiv:2106.09685) and its gradients with respect to x, A
and B. Products are added to what is there; drop(x) Aᵀ is kept for the backward pass and drop(x) is not;
layers that read the same x share its copy in 16 bits.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import peft
import torch
from bitsandbytes.nn import Linear4bit
from peft.tuners import lora
from torch import nn
from torch.nn import functional

from stages.backends import nf4

CHANCES = 2**16
"""A number is dropped with a multiple of 1 / CHANCES."""


@contextmanager
def fused_lora(model: peft.PeftModel) -> Iterator[None]:
    """Meanwhile those adapted layers of `model` compute so of which it is all that they do."""
    layers = [layer for layer in model.modules() if _is_plain(layer)]
    forward = _forward(_Inputs())
    for layer in layers:
        layer.forward = types.MethodType(forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _is_plain(layer: nn.Module) -> bool:
    """Whether this is a frozen linear layer on a CPU with one adapter, without DoRA or a bias in B."""
    if not isinstance(layer, lora.Linear | lora.Linear4bit):
        return False
    base, (name, *others) = layer.base_layer, layer.active_adapters
    if others or name not in layer.lora_A or layer.lora_variant or layer.lora_bias[name] or layer.merged:
        return False
    frozen = not any(weight.requires_grad for weight in base.parameters())
    return frozen and type(base) in (nn.Linear, Linear4bit) and base.weight.device.type == "cpu"


def _forward(inputs: _Inputs) -> Callable[..., torch.Tensor]:
    def forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
        if layer.disable_adapters:
            answer: torch.Tensor = layer.base_layer(x)
            return answer
        (name,) = layer.active_adapters
        dropout, scale, kept = layer.lora_dropout[name], layer.scaling[name], None
        if isinstance(dropout, nn.Dropout) and dropout.training:
            scale, kept = scale / (1 - dropout.p), _kept(x.shape, dropout.p)
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        y: torch.Tensor = _FusedLora.apply(x, inputs.computed(x), layer.base_layer, a, b, scale, kept)
        return y

    return forward


class _Inputs:
    """The last input, in the type that is computed in: queries, keys and values read the same one."""

    def __init__(self) -> None:
        self._source: Callable[[], torch.Tensor | None] = lambda: None
        self._version = 0
        self._computed = torch.empty(0)

    def computed(self, x: torch.Tensor) -> torch.Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if x.dtype == dtype:
            return x.detach()
        version = x._version
        known = self._source() is x and self._version == version
        if not known or self._computed.dtype != dtype:
            self._source, self._version, self._computed = weakref.ref(x), version, x.detach().to(dtype)
        return self._computed


def _kept(shape: torch.Size, dropout: float) -> torch.Tensor:
    """Which numbers are not dropped, bool. Torch's generator draws the seed alone: drawing all numbers from
    it takes ten times as long."""
    seed, count = int(torch.randint(2**62, ())), shape.numel()
    drawn = np.random.SFC64(seed).random_raw(-(-count // 4)).view(np.uint16)[:count]
    return torch.from_numpy(drawn >= round(dropout * CHANCES)).view(shape)


class _FusedLora(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        x: torch.Tensor,
        computed: torch.Tensor,
        base: nn.Linear,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
        kept: torch.Tensor | None,
    ) -> torch.Tensor:
        """`x` (…, in), `computed` the same in the type that is computed in, `a` (rank, in), `b` (out, rank),
        `kept` (…, in) bool; returns (…, out)."""
        dtype = computed.dtype
        bias = None if base.bias is None else base.bias.to(dtype)
        y = functional.linear(computed, nf4.values(base, dtype), bias)
        low = _rows(computed, kept) @ a.to(dtype).t()
        y.flatten(0, -2).addmm_(low, b.to(dtype).t(), alpha=scale)
        context.save_for_backward(computed, a, b, low, kept)
        context.base, context.scale = base, scale
        return y

    @staticmethod
    def backward(context: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        computed, a, b, low, kept = context.saved_tensors
        dtype = computed.dtype
        of_y = slopes[0].to(dtype).flatten(0, -2)
        of_low = (of_y @ b.to(dtype)).mul_(context.scale)
        of_b = (of_y.t() @ low).mul_(context.scale)
        of_a = of_low.t() @ _rows(computed, kept)
        of_x = None
        if context.needs_input_grad[0]:
            of_x = of_y @ nf4.values(context.base, dtype)
            if kept is None:
                of_x.addmm_(of_low, a.to(dtype))
            else:
                of_x += (of_low @ a.to(dtype)).mul_(kept.flatten(0, -2).to(dtype))
            of_x = of_x.view(computed.shape)
        return of_x, None, None, of_a, of_b, None, None


def _rows(x: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
    """`x` as (count, in), with zeros where it is dropped."""
    return (x if kept is None else x * kept.to(x.dtype)).flatten(0, -2)
