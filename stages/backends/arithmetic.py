"""Time bfloat16 against float32 in a matrix product and its gradients; `python -m` prints the result."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable

import torch

from stages.arithmetic import CLEARLY_FASTER, ComputeDtype, MachineSpeed, ProductRates, identity

OPERATIONS = 450e6
"""Of one product: 5 ms at 90 GFLOP/s, and half a second where bfloat16 is emulated at 1."""
LONGEST_SIDE = 4096
LEAST_RUNS, ENOUGH_SECONDS = 3, 0.03
"""A product is repeated so often and for this long; the fastest run counts."""
LONG_SECONDS = 0.3
"""A first run this long is of an emulated type; making kernels alone can take 37 ms and look like one."""


def measure(inputs: int = 576, outputs: int = 1536) -> MachineSpeed:
    """Time both types in `x · Wᵀ` of a layer with `outputs` × `inputs` weights, and in its two gradients.

    On a CPU one thread computes and its own processor time counts, so that a busy neighbour changes nothing.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = torch.get_num_threads()
    inputs, outputs = min(inputs, LONGEST_SIDE), min(outputs, LONGEST_SIDE)
    tokens = max(16, min(256, round(OPERATIONS / (2 * inputs * outputs))))
    torch.set_num_threads(1)
    try:
        float32 = _rates(torch.float32, device, tokens, inputs, outputs)
        bfloat16 = _rates(torch.bfloat16, device, tokens, inputs, outputs)
    finally:
        torch.set_num_threads(threads)
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = bfloat16.overall > CLEARLY_FASTER * float32.overall
    digest, processor = identity()
    return MachineSpeed(
        identity=digest,
        processor=processor if device == "cpu" else torch.cuda.get_device_name(),
        device=device,
        threads=threads,
        product=(tokens, inputs, outputs),
        float32=float32,
        bfloat16=bfloat16,
        native_bfloat16=native,
    )


def effective(compute_dtype: str) -> torch.dtype:
    """The torch dtype of `bfloat16`, `float32`, or of what `auto` means on this machine.

    A flow replaces `auto` before any stage starts; a stage that is called by itself measures once.
    """
    dtype: torch.dtype = getattr(torch, _auto() if compute_dtype == "auto" else compute_dtype)
    return dtype


@functools.cache
def _auto() -> ComputeDtype:
    return measure().compute_dtype


def _rates(dtype: torch.dtype, device: str, tokens: int, inputs: int, outputs: int) -> ProductRates:
    generator = torch.Generator().manual_seed(0)
    x, weight, gradient = (
        torch.randn(*shape, generator=generator).to(device, dtype)
        for shape in ((tokens, inputs), (outputs, inputs), (tokens, outputs))
    )
    operations = 2 * tokens * inputs * outputs
    with torch.inference_mode():
        return ProductRates(
            forward=operations / _fastest(lambda: torch.nn.functional.linear(x, weight), device),
            grad_input=operations / _fastest(lambda: gradient @ weight, device),
            grad_weight=operations / _fastest(lambda: gradient.T @ x, device),
        )


def _fastest(work: Callable[[], torch.Tensor], device: str) -> float:
    """Seconds of the fastest run; the first, in which kernels are made, counts only if it was long."""
    first = _timed(work, device)
    if first >= LONG_SECONDS:
        return first
    times = [_timed(work, device) for _ in range(LEAST_RUNS)]
    while sum(times) < ENOUGH_SECONDS:
        times.append(_timed(work, device))
    return min(times)


def _timed(work: Callable[[], torch.Tensor], device: str) -> float:
    if device == "cpu":
        started = time.thread_time()
        work()
        return time.thread_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    print(measure(int(sys.argv[1]), int(sys.argv[2])).model_dump_json())
