"""Several rows in one sequence, only where the model's attention keeps them apart."""

from __future__ import annotations

import inspect

import torch
from transformers import PreTrainedModel

from stages.errors import InvalidInput

TOLERANCE = 0.05
"""Largest relative difference that 16-bit rounding explains; a row that sees another differs by far more."""


def mixing(model: PreTrainedModel) -> float:
    """How much a row's logits change when another row is packed before it: ‖a − b‖ / ‖b‖, 0 when kept apart.

    Positions start again at 0 with each row and there is no attention mask, as in packed training.
    """
    ids = torch.arange(5, 29, device=model.device)[None] % model.config.get_text_config().vocab_size
    first, second = ids[:, :16], ids[:, 16:]
    positions = torch.cat([torch.arange(16), torch.arange(8)]).to(model.device)[None]
    was_training = model.training
    model.eval()
    with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16):
        alone = model(input_ids=second, use_cache=False).logits.float()
        packed = model(
            input_ids=torch.cat([first, second], dim=1), position_ids=positions, use_cache=False
        ).logits[:, 16:]
    model.train(was_training)
    return float((packed.float() - alone).norm() / alone.norm())


def require_rows_apart(model: PreTrainedModel) -> None:
    """Raise `InvalidInput` where packed rows would read each other."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if "position_ids" not in inspect.signature(inner.forward).parameters:
        raise InvalidInput(
            f"train.packing: {type(inner).__name__} takes no positions, so packed rows would read each "
            "other; set train.packing: false"
        )
    change = mixing(model)
    if change > TOLERANCE:
        raise InvalidInput(
            f"train.packing: with this model's attention packed rows read each other (logits change by "
            f"{change:.0%}, expected below {TOLERANCE:.0%}); set train.packing: false"
        )
