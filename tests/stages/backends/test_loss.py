"""The loss of many labels: the same as of all logits at once, in bounded memory, where the head allows it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM

from stages.backends.train import loss
from stages.backends.train.loss import plain_head, summed_loss, token_losses, without
from stages.memory import CHANGED_LOGITS
from tests.stages.families.tiny_models import SETTINGS, config_of

COUNT, WIDTH, WORDS = 50, 16, 40


def drawn(bias: bool) -> tuple[torch.Tensor, torch.Tensor, nn.Linear]:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(COUNT, WIDTH, generator=draw).requires_grad_()
    torch.manual_seed(1)
    return hidden, torch.randint(WORDS, (COUNT,), generator=draw), nn.Linear(WIDTH, WORDS, bias)


@pytest.mark.parametrize("at_once", [1, 7 * WORDS, 10**6])
@pytest.mark.parametrize("bias", [False, True])
def test_loss_and_gradient_are_those_of_all_logits(
    at_once: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", at_once)
    hidden, labels, head = drawn(bias)
    found = summed_loss(hidden, labels, head, bf16=False)
    (gradient,) = torch.autograd.grad(found / 3, hidden)
    expected = functional.cross_entropy(head(hidden), labels, reduction="sum")
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected / 3, hidden)[0])


def test_products_are_in_16_bits_where_it_says_so() -> None:
    hidden, labels, head = drawn(bias=False)
    found = summed_loss(hidden, labels, head, bf16=True)
    logits = functional.linear(hidden.bfloat16(), head.weight.bfloat16()).float()
    torch.testing.assert_close(found, functional.cross_entropy(logits, labels, reduction="sum"))


def test_no_more_logits_than_said_are_there_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", 7 * WORDS)
    sizes = []

    def counted(logits: torch.Tensor, dim: int) -> torch.Tensor:
        sizes.append(logits.numel())
        return torch.log_softmax(logits, dim)

    monkeypatch.setattr(functional, "log_softmax", counted)
    hidden, labels, head = drawn(bias=False)
    summed_loss(hidden, labels, head, bf16=False).backward()
    assert sizes == [7 * WORDS] * 7 + [WORDS]


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # in BigCode
@pytest.mark.parametrize("family", SETTINGS)
def test_a_head_is_plain_unless_its_logits_are_changed(family: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(family)).requires_grad_(False)
    head = plain_head(model, bf16=False)
    assert (head is None) == (family in CHANGED_LOGITS)
    if head is not None:
        ids = torch.arange(1, 9)[None]
        model.eval()
        with without(head):
            hidden = model(input_ids=ids, use_cache=False).logits[0]
        found = summed_loss(hidden, ids[0], head, bf16=False)
        logits = model(input_ids=ids, use_cache=False).logits[0].float()
        torch.testing.assert_close(found, functional.cross_entropy(logits, ids[0], reduction="sum"))


def test_a_head_that_is_trained_is_not_plain() -> None:
    model = AutoModelForCausalLM.from_config(config_of("llama"))
    assert plain_head(model, bf16=False) is None


@pytest.mark.parametrize("at_once", [1, 7 * WORDS, 10**6])
@pytest.mark.parametrize("bias", [False, True])
def test_each_loss_has_its_own_gradient(at_once: int, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", at_once)
    hidden, labels, head = drawn(bias)
    head.requires_grad_(False)
    weights = torch.linspace(-1, 2, COUNT)
    found = token_losses(hidden, labels, head, bf16=False)
    expected = functional.cross_entropy(head(hidden), labels, reduction="none")
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad((weights * found).sum(), hidden)
    torch.testing.assert_close(gradient, torch.autograd.grad((weights * expected).sum(), hidden)[0])
    with torch.no_grad():
        torch.testing.assert_close(token_losses(hidden, labels, head, bf16=False), expected)
