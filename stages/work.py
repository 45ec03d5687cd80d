"""What each stage has to do, counted in operations and bytes, whatever the machine.

An operation is one of floating point. What is not a matrix product (a library's loops, unpacking, hashing) is
counted as float32 operations too, as many as one core would have done in the time that it took: each such
constant is seconds on a core of 150 GFLOP/s in float32, where it was measured, times that rate. What goes
through a model is counted in tokens and passes too, where a machine's time for those is known.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from stages.model_shape import ModelShape

_CORE = 150e9
"""Float32 operations per second of the core on which the constants were measured."""
IMPORTS = 3.8 * _CORE
"""What most stages import, once for a run: its first stage waits for it, and the others are forks."""
START = 0.3 * _CORE
"""Such a fork, and a tokenizer."""
DATA = 0.4 * _CORE
"""What reading data imports beside that."""
TRAINER = 0.8 * _CORE
"""What training imports (TRL) beside that, and its own start and end."""
CONVERTER = 1.2 * _CORE
"""What llama.cpp's converter imports, and its end."""
QUANTIZER = 8 * _CORE
"""What GPTQ imports beside that, and the opening of its model."""
BESIDE = 6.0
"""Per linear parameter and token, forward and back: all that is not a product with weights, where a machine's
own time for it is not known."""
CONVERTED = 22e-9 * _CORE
"""Per parameter that is read from a packed file, rounded to NF4, or hashed and written anew."""
REQUEST = 0.25e-3 * _CORE
"""Per answer whose likelihood lm-eval is asked for: rendering, tokenizing and sorting are Python's work."""
K_QUANT, PLAIN_QUANT = 2500.0, 700.0
"""Per parameter that llama.cpp quantizes: 135M to Q4_K_M took 1.2 s longer than to Q8_0 on
2 cores."""
COLUMN = 0.3e-3 * _CORE
"""Per column of a weight matrix that GPTQ rounds, one after the other: 150,000 of 135M took 45 s."""
READ = 1e-6 * _CORE
"""Per byte of data: rendering, tokenizing and comparing a row is Python's work."""


@dataclass(frozen=True)
class Through:
    """What goes through a model of so many `layers`, in passes of all rows of a batch and in tokens: `read`,
    `adapted` (with an adapter beside the weights) and `trained` (forward, back, and the optimizer's step).

    Positions that its head is asked about: `answered` for the next token, in `answer_passes`; `compared` for
    all log-probabilities; `learned` for a loss and its gradient.
    """

    layers: int
    read_passes: float = 0.0
    read_tokens: float = 0.0
    adapted_passes: float = 0.0
    adapted_tokens: float = 0.0
    trained_passes: float = 0.0
    trained_tokens: float = 0.0
    answer_passes: float = 0.0
    answered: float = 0.0
    compared: float = 0.0
    learned: float = 0.0

    def times(self, count: float) -> Through:
        """The same, `count` times."""
        return Through(self.layers, *(getattr(self, name) * count for name in _COUNTS))

    def plus(self, other: Through) -> Through:
        """Both, of a model with as many layers."""
        sums = (getattr(self, name) + getattr(other, name) for name in _COUNTS)
        return Through(self.layers, *sums)


_COUNTS = tuple(field.name for field in fields(Through) if field.name != "layers")


@dataclass(frozen=True)
class Work:
    """`forward`, `backward`: operations of products with weights and of those of their gradients; `beside`:
    other operations that all cores share; `serial`: those of one core; `disk`: bytes read and written.

    `through`: the same as `forward`, `backward` and `beside` together, where all of that goes through a
    model.
    """

    forward: float = 0.0
    backward: float = 0.0
    beside: float = 0.0
    serial: float = 0.0
    disk: float = 0.0
    through: Through | None = None

    def times(self, count: float) -> Work:
        """The same, `count` times."""
        counts = {name: value * count for name, value in vars(self).items() if name != "through"}
        return Work(**counts, through=self.through and self.through.times(count))

    def plus(self, other: Work) -> Work:
        """One after the other, through one model or none."""
        mine, theirs = self.through, other.through
        both = mine.plus(theirs) if mine is not None and theirs is not None else mine or theirs
        sums = {name: value + getattr(other, name) for name, value in vars(self).items() if name != "through"}
        return Work(**sums, through=both)


def passing(shape: ModelShape, through: Through) -> Work:
    """What goes through a model of `shape`, in operations too."""
    linear, head = 2 * shape.linear_parameters, 2 * shape.vocabulary * shape.hidden
    once = through.read_tokens + through.adapted_tokens
    positions = through.answered + through.compared
    return Work(
        forward=linear * (once + through.trained_tokens) + head * (positions + through.learned),
        backward=linear * through.trained_tokens + head * through.learned,
        beside=BESIDE * shape.linear_parameters * (once / 2 + through.trained_tokens),
        through=through,
    )


def training(
    shape: ModelShape,
    tokens: float,
    checkpointing: bool,
    *,
    passes: float | None = None,
    learned: float | None = None,
    checks: float = 0.0,
) -> Work:
    """Forward once (twice with checkpointing), and the gradient of each layer's input: weights are frozen.

    `passes`: batches, of 256 tokens where it is not given; `learned`: tokens of answers, a quarter where that
    is not given; `checks`: validations, each of as many tokens per pass, in tokens.
    """
    passes = tokens / 256 if passes is None else passes
    learned = tokens / 4 if learned is None else learned
    again = tokens if checkpointing else 0.0
    share = passes / tokens if tokens else 0.0
    through = Through(
        layers=shape.layers,
        read_passes=again * share,
        read_tokens=again,
        adapted_passes=checks * share / 2,  # of twice as many rows
        adapted_tokens=checks,
        trained_passes=passes,
        trained_tokens=tokens,
        compared=checks * learned / tokens if tokens else 0.0,
        learned=learned,
    )
    once = Work(
        serial=START + DATA + TRAINER + CONVERTED * shape.linear_parameters, disk=2 * shape.parameters
    )
    return passing(shape, through).plus(once)


def evaluation(
    shape: ModelShape, through: Through, opened: int = 1, rounded: int = 0, asked: float = 0
) -> Work:
    """What goes through the models of an evaluation: `opened` of them one after the other, weights rounded
    to NF4 or compared `rounded` times, and so many answers weighed by their likelihood."""
    serial = (opened + 1) * START + rounded * CONVERTED * shape.linear_parameters + asked * REQUEST
    once = Work(serial=serial, disk=opened * 2 * shape.parameters)
    return passing(shape, through).plus(once)


def merge(shape: ModelShape, rank: int, into_nf4: bool) -> Work:
    """Read, add the product of two factors to each linear weight, write."""
    rounded = CONVERTED * shape.linear_parameters if into_nf4 else 0.0
    return Work(2 * rank * shape.linear_parameters, serial=START + rounded, disk=4 * shape.parameters)


def gguf(shape: ModelShape, k_quant: bool) -> Work:
    """The converter writes 16 bits, of which the quantizer makes the file."""
    per = K_QUANT if k_quant else PLAIN_QUANT
    return Work(beside=per * shape.parameters, serial=START + CONVERTER, disk=8 * shape.parameters)


def gptq(shape: ModelShape, tokens: float) -> Work:
    """Calibration tokens pass each layer twice and give its Hessian; then columns are rounded in turn
    (Frantar et al. 2022, arXiv:2210.17323, algorithm 1)."""
    packed = shape.packed_shapes().values()
    passes = 2 * 2 * shape.packed_parameters * tokens
    hessians = shape.layers * sum(2 * inputs**2 * tokens for inputs, _, _ in packed)
    updates = shape.layers * sum(2 * inputs**2 * outputs * count for inputs, outputs, count in packed)
    columns = shape.layers * sum(inputs * count for inputs, _, count in packed)
    return Work(
        passes + hessians, beside=updates, serial=QUANTIZER + COLUMN * columns, disk=4 * shape.parameters
    )


def resolving(shape: ModelShape, kept: int, converted: bool) -> Work:
    """A packed file is unpacked; whatever comes is read, hashed and written."""
    return Work(serial=IMPORTS + START + (CONVERTED * shape.parameters if converted else 0), disk=3 * kept)


def preparing(size: int) -> Work:
    """`size` bytes of data."""
    return Work(serial=START + DATA + READ * size, disk=3 * size)


def files(size: int) -> Work:
    """Little more than reading and writing `size` bytes."""
    return replace(Work(serial=START), disk=2 * size)
