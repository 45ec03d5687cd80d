"""Open a GPTQ checkpoint with GPTQModel, as it is packed or with its values unpacked."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from serving.cores import usable_threads
from stages.backends.gptq.groups import require_group_size
from stages.errors import MissingPackage


def library() -> Any:
    """GPTQModel, told how many cores there are. Raises `MissingPackage`."""
    # On fewer than three cores the library gives itself one worker and then waits for a second one.
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(max(2, usable_threads())))
    # The compiled packer needs a C++ compiler and a cache in the home directory; the result is the same.
    os.environ.setdefault("GPTQMODEL_DISABLE_PACK_EXT", "1")
    try:
        import gptqmodel
    except ImportError as error:
        raise MissingPackage(
            f"GPTQModel cannot be imported ({error}); install it with: "
            "pip install gptqmodel==7.6.0 optimum==2.3.0"
        ) from error
    return gptqmodel


def packed_gptq(path: Path, on_cpu: bool) -> tuple[Any, torch.dtype]:
    """The network with its layers packed, as GPTQModel has it, and the type of its scales.

    Raises `InvalidInput` where they are for other groups than the settings say.
    """
    gptqmodel = library()
    require_group_size(path)
    backend = gptqmodel.BACKEND.GPTQ_TORCH if on_cpu else gptqmodel.BACKEND.AUTO
    # Left to itself GPTQModel rounds float16 scales to bfloat16 on a CPU.
    stored = transformers.AutoConfig.from_pretrained(path, local_files_only=True).dtype or torch.float16
    with contextlib.redirect_stdout(io.StringIO()):
        network = gptqmodel.GPTQModel.load(
            str(path), device="cpu" if on_cpu else "cuda", backend=backend, dtype=stored
        ).model
    return network, stored


def dequantize_in_place(network: nn.Module) -> None:
    """Put dense layers with the kernel's own dequantized values in place of the packed ones.

    GPTQModel's CPU kernel dequantizes a layer whenever it runs; once is enough, and the values are the same.
    """
    for name, module, weight in dequantized(network):
        with torch.device("meta"):
            dense = nn.Linear(module.in_features, module.out_features, bias=False)
        dense.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        if module.bias is not None:
            dense.bias = nn.Parameter(module.bias.detach(), requires_grad=False)
        network.set_submodule(name, dense)


def dequantized(network: nn.Module) -> Iterator[tuple[str, Any, torch.Tensor]]:
    """Name, packed layer and its weights [outputs, inputs] of each GPTQ layer on a CPU.

    By the class's own function: the one on the layer is compiled first, which takes 20 s and a C++ compiler,
    and aborts where the compiler takes the processor for a newer one than torch does.
    """
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear

    for name, module in list(network.named_modules()):
        if isinstance(module, TorchLinear):
            yield name, module, TorchLinear.dequantize_weight(module).T.detach()
