"""Mend vLLM's adapters on a CPU: vLLM's worker loads this with `--worker-extension-cls`.

In a batch, -1 stands for "no adapter". The CPU's kernels of vLLM 0.32 take it for the last slot's index, so
that the base answers with whichever tenant's adapter is there (vLLM pull request 48421, not merged yet). A
row of zeros in gives a change of zero out, so those rows are made zeros before the kernels see them.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

KERNELS = ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice")
"""The others are made of these."""
OPS = "vllm.lora.ops.torch_ops.lora_ops"
USER = "vllm.lora.punica_wrapper.punica_cpu"


class Mended:
    """vLLM adds this to its worker's class; loading it is all that is wanted."""


def mend(*modules: Any) -> None:
    """Replace the kernels in each of `modules`, the first of which defines them."""
    for name in KERNELS:
        sound = without_base(getattr(modules[0], name))
        for module in modules:
            setattr(module, name, sound)


def without_base(kernel: Callable[..., None]) -> Callable[..., None]:
    """`kernel(inputs, weights, output, indices, ...)` that leaves the rows with the index -1 as they are.

    inputs: float [rows, features]; indices: int [rows], the slot of each row.
    """

    def mended(inputs: Any, weights: Any, output: Any, indices: Any, *more: Any, **named: Any) -> None:
        kernel(inputs * (indices >= 0).unsqueeze(-1), weights, output, indices, *more, **named)

    return mended


if importlib.util.find_spec("vllm") is not None:
    mend(importlib.import_module(OPS), importlib.import_module(USER))
