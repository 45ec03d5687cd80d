"""The loss of many labels without all their logits in memory at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from stages.memory import LOGITS_AT_ONCE


def plain_head(model: Any, bf16: bool) -> nn.Linear | None:
    """The head of `model` (with or without an adapter, computing in bfloat16 or float32), where the logits
    are what this makes of the last layer's output, and nothing in it is trained; otherwise None."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or any(weight.requires_grad for weight in head.parameters()):
        return None
    device = head.weight.device
    ids = torch.arange(1, 9, device=device)[None]
    was_training = model.training
    model.eval()
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        logits = model(input_ids=ids, use_cache=False).logits
        with without(head):
            hidden = model(input_ids=ids, use_cache=False).logits
        same = hidden.shape[-1] == head.in_features and torch.equal(head(hidden), logits)
    model.train(was_training)
    return head if same else None


@contextmanager
def without(head: nn.Linear) -> Iterator[None]:
    """Meanwhile a model answers with the last layer's output in place of logits."""
    head.forward = lambda hidden: hidden
    try:
        yield
    finally:
        del head.forward


def summed_loss(hidden: torch.Tensor, labels: torch.Tensor, head: nn.Linear, bf16: bool) -> torch.Tensor:
    """Sum of the negative log-likelihoods of `labels` (count, int64), a float32 scalar.

    `hidden` (count, width) is what comes before the head, whose products are computed in bfloat16 or in its
    own type. At most `LOGITS_AT_ONCE` logits are in memory at once, also for the backward pass.
    """
    dtype = torch.bfloat16 if bf16 else head.weight.dtype
    bias = None if head.bias is None else head.bias.to(dtype)
    loss: torch.Tensor = _SummedLoss.apply(hidden, labels, head.weight.to(dtype), bias)
    return loss


def token_losses(hidden: torch.Tensor, labels: torch.Tensor, head: nn.Linear, bf16: bool) -> torch.Tensor:
    """The negative log-likelihood of each of `labels` (count, int64): float32 (count,).

    `hidden` and `bf16` as in `summed_loss`; as few logits are in memory at once.
    """
    dtype = torch.bfloat16 if bf16 else head.weight.dtype
    bias = None if head.bias is None else head.bias.to(dtype)
    losses: torch.Tensor = _TokenLosses.apply(hidden, labels, head.weight.to(dtype), bias)
    return losses


class _SummedLoss(torch.autograd.Function):
    """The gradient is computed beside the loss: its logits are there then."""

    @staticmethod
    def forward(
        context: Any,
        hidden: torch.Tensor,
        labels: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        rows = max(1, LOGITS_AT_ONCE // len(weight))
        wanted = context.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wanted else None
        total = torch.zeros((), device=hidden.device)
        for start in range(0, len(labels), rows):
            part = slice(start, start + rows)
            slopes = None if gradient is None else gradient[part]
            total += _part(hidden[part], labels[part, None], weight, bias, slopes).sum()
        if gradient is not None:
            context.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(context: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = context.saved_tensors
        return gradient * slopes[0], None, None, None


class _TokenLosses(torch.autograd.Function):
    """Likewise; each loss depends on its own row of `hidden` alone, so its gradient is kept as a row."""

    @staticmethod
    def forward(
        context: Any,
        hidden: torch.Tensor,
        labels: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        rows = max(1, LOGITS_AT_ONCE // len(weight))
        gradient = torch.empty_like(hidden) if context.needs_input_grad[0] else None
        losses = torch.empty(len(labels), device=hidden.device)
        for start in range(0, len(labels), rows):
            part = slice(start, start + rows)
            slopes = None if gradient is None else gradient[part]
            losses[part] = _part(hidden[part], labels[part, None], weight, bias, slopes)[:, 0]
        if gradient is not None:
            context.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(context: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = context.saved_tensors
        return (gradient * slopes[0][:, None]).to(gradient.dtype), None, None, None


def _part(
    hidden: torch.Tensor,
    targets: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    gradient: torch.Tensor | None,
) -> torch.Tensor:
    """The losses of a part, (count, 1), whose logits are gone when it returns; fills in the gradient with
    respect to `hidden`."""
    logits = functional.linear(hidden.to(weight.dtype), weight, bias).float()
    likelihoods = functional.log_softmax(logits, dim=-1)
    del logits
    losses = -likelihoods.gather(-1, targets)
    if gradient is not None:
        slopes = likelihoods.exp_()
        slopes.scatter_add_(-1, targets, slopes.new_full(targets.shape, -1.0))
        gradient.copy_(slopes.to(weight.dtype) @ weight)
    return losses
