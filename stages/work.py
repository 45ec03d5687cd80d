"""What each stage has to do, counted in operations and bytes, whatever the machine.

An operation is one of floating point. What is not a matrix product (norms, attention, a library's loops) is
counted as float32 operations too, as many as one core would have done in the time that it took: each such
constant is seconds on a core of 150 GFLOP/s in float32, where it was measured, times that rate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from stages.model_shape import ModelShape

_CORE = 150e9
"""Float32 operations per second of the core on which the constants were measured."""
START = 8 * _CORE
"""A process that imports torch and transformers and opens a model."""
LIGHT_START = 3 * _CORE
"""One that works on files."""
BESIDE = 5.0
"""Per parameter and token, forward and back: all that is not a product with weights. Of the demo, which takes
5.6 ms of a core for a token that it trains on and 2.4 ms for one that it evaluates."""
CONVERTED = 60e-9 * _CORE
"""Per parameter that is read from a packed file, rounded to NF4, or hashed and written anew."""
K_QUANT, PLAIN_QUANT = 7000.0, 700.0
"""Per parameter that llama.cpp quantizes: 135M to Q4_K_M took 3 s on 2 cores."""
COLUMN = 0.3e-3 * _CORE
"""Per column of a weight matrix that GPTQ rounds, one after the other: 150,000 of 135M took 45 s."""
READ = 1e-6 * _CORE
"""Per byte of data: rendering, tokenizing and comparing a row is Python's work."""


@dataclass(frozen=True)
class Work:
    """`forward`, `backward`: operations of products with weights and of those of their gradients; `beside`:
    other operations that all cores share; `serial`: those of one core; `disk`: bytes read and written."""

    forward: float = 0.0
    backward: float = 0.0
    beside: float = 0.0
    serial: float = 0.0
    disk: float = 0.0

    def times(self, count: int) -> Work:
        """The same, `count` times."""
        return Work(**{name: value * count for name, value in vars(self).items()})


def training(shape: ModelShape, tokens: float, checkpointing: bool) -> Work:
    """Forward once (twice with checkpointing), and the gradient of each layer's input: weights are frozen."""
    product = 2 * shape.parameters * tokens
    passes = 2 if checkpointing else 1
    return Work(passes * product, product, passes * BESIDE * shape.parameters * tokens, START)


def evaluation(shape: ModelShape, tokens: float) -> Work:
    """`tokens` read or written by one model."""
    return Work(
        2 * shape.parameters * tokens,
        beside=BESIDE / 2 * shape.parameters * tokens,
        serial=START,
        disk=2 * shape.parameters,
    )


def merge(shape: ModelShape, rank: int, into_nf4: bool) -> Work:
    """Read, add the product of two factors to each linear weight, write."""
    rounded = CONVERTED * shape.linear_parameters if into_nf4 else 0.0
    return Work(2 * rank * shape.linear_parameters, serial=LIGHT_START + rounded, disk=4 * shape.parameters)


def gguf(shape: ModelShape, k_quant: bool) -> Work:
    """The converter writes 16 bits, of which the quantizer makes the file."""
    per = K_QUANT if k_quant else PLAIN_QUANT
    return Work(beside=per * shape.parameters, serial=LIGHT_START, disk=8 * shape.parameters)


def gptq(shape: ModelShape, tokens: float) -> Work:
    """Calibration tokens pass each layer twice and give its Hessian; then columns are rounded in turn
    (Frantar et al. 2022, arXiv:2210.17323, algorithm 1)."""
    packed = shape.packed_shapes().values()
    passes = 2 * 2 * shape.packed_parameters * tokens
    hessians = shape.layers * sum(2 * inputs**2 * tokens for inputs, _, _ in packed)
    updates = shape.layers * sum(2 * inputs**2 * outputs * count for inputs, outputs, count in packed)
    columns = shape.layers * sum(inputs * count for inputs, _, count in packed)
    return Work(passes + hessians, beside=updates, serial=START + COLUMN * columns, disk=4 * shape.parameters)


def resolving(shape: ModelShape, kept: int, converted: bool) -> Work:
    """A packed file is unpacked; whatever comes is read, hashed and written."""
    return Work(serial=START + (CONVERTED * shape.parameters if converted else 0), disk=3 * kept)


def preparing(size: int) -> Work:
    """`size` bytes of data."""
    return Work(serial=START + READ * size, disk=3 * size)


def files(size: int) -> Work:
    """Little more than reading and writing `size` bytes."""
    return replace(Work(serial=LIGHT_START), disk=2 * size)
