"""What PEFT saves of a LoRA adapter: two files, and how the tensors in them are called."""

from __future__ import annotations

import re
from typing import NamedTuple

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
"""How old versions saved the weights; it can run code when it is opened."""

_PREFIX, _UNTRAINED = "base_model.model.", ".original_module."
_FACTOR = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?:\.default)?(?:\.(?P<leaf>weight|bias))?"
)
_WHOLE = re.compile(r"(?P<module>.+)\.(?:base_layer|modules_to_save(?:\.default)?)\.(?P<leaf>weight|bias)")


class AdapterTensor(NamedTuple):
    """What a tensor of an adapter is to the base: a `part` of an update, or None: a whole tensor."""

    target: str
    """The tensor of the base, as the model calls it; of a factor, the weight or bias of its module."""
    part: str | None = None
    untrained: bool = False
    """The original of a trained module, which PEFT saves beside it."""

    @property
    def module(self) -> str:
        return self.target.rpartition(".")[0]


def adapter_tensor(key: str) -> AdapterTensor:
    """Read the name of a tensor in `adapter_model.safetensors`."""
    name = key.removeprefix(_PREFIX)
    factor = _FACTOR.fullmatch(name)
    if factor and (factor["leaf"] != "bias" or factor["part"] == "lora_B"):  # lora_bias adds to B alone
        return AdapterTensor(f"{factor['module']}.{factor['leaf'] or 'weight'}", factor["part"])
    if whole := _WHOLE.fullmatch(name):
        return AdapterTensor(f"{whole['module']}.{whole['leaf']}")
    return AdapterTensor(name.replace(_UNTRAINED, "."), untrained=_UNTRAINED in name)
