"""The tensors of a merged model, computed piece by piece where that gives the same bits, else whole."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import torch

from stages.backends.merge.layout import ModuleKind
from stages.backends.merge.plan import FLOATS, LowRank, Output
from stages.backends.safetensors import DTYPES, TensorFiles
from stages.config.train import Nf4Config
from stages.errors import InvalidInput

FLOAT16_LARGEST = 65504.0
PIECE = 1 << 18
"""Elements computed at a time: the float32 numbers stay in a core's cache, from product to rounding."""
ROWS = 64
"""A piece of a product has a multiple of so many rows, but for the last one."""
EVEN = 8
"""Products whose rows and columns are multiples of this come out the same in pieces as at once, by one thread
as by several; of others a last bit may differ where the library's kernels have an edge."""
AT_ONCE = 2
"""Tensors that are in memory whole at any time: one is computed while another is read or written."""

Piece = tuple[torch.Tensor, float]
"""Elements in the result's dtype, flat, and the largest absolute value among them."""


class MergedTensors:
    """Computes tensors of a plan, for several threads; `threads`: for a tensor that is computed whole."""

    def __init__(self, base: TensorFiles, adapter: TensorFiles, nf4: Nf4Config | None, threads: int) -> None:
        self._base, self._adapter, self._nf4, self._threads = base, adapter, nf4, threads
        self._own = threading.local()
        self._few, self._alone = threading.Semaphore(AT_ONCE), threading.Lock()

    def pieces(self, output: Output) -> Iterator[Piece]:
        """All elements of a tensor, in order. A piece is overwritten when the next one is asked for.

        Raises `InvalidInput` for a value that is not finite, or too large for float16.
        """
        files, name = self._stored(output)
        stored = files.spec(name).dtype
        if output.low_rank and self._is_even(output, stored):
            yield from self._sums(output, output.low_rank)
        elif output.low_rank or output.bias or (output.round_trip and self._nf4):
            with self._few:
                yield self._whole(output)
        else:
            for first in range(0, output.spec.elements, PIECE):
                count = min(PIECE, output.spec.elements - first)
                values = self._read(files, name, first, count)
                yield self._rounded(output, values) if stored in FLOATS else (values, 0.0)

    def _stored(self, output: Output) -> tuple[TensorFiles, str]:
        if output.replacement:
            return self._adapter, output.replacement
        return self._base, output.source

    def _is_even(self, output: Output, stored: str) -> bool:
        term = output.low_rank
        plain = term and not (term.transposed or term.magnitude or output.bias)
        rounded = output.round_trip and self._nf4
        # in float64 the sum is one of float64 numbers
        return bool(
            plain and not rounded and stored != "F64" and not any(size % EVEN for size in output.spec.shape)
        )

    def _sums(self, output: Output, term: LowRank) -> Iterator[Piece]:
        """Rows of W + scale · B·A: product, scaling and sum, each rounded to float32 as PEFT does."""
        files, name = self._stored(output)
        a, b = self._adapter.read(term.a).float(), self._adapter.read(term.b).float()
        inputs = output.spec.shape[1]
        rows = max(ROWS, PIECE // inputs // ROWS * ROWS)
        for number, factors in enumerate(b.split(rows)):
            count = len(factors) * inputs
            weight = self._widened(self._read(files, name, number * rows * inputs, count))
            update = self._buffer("update", count, torch.float32)
            torch.mm(factors, a, out=update.view(len(factors), inputs))
            yield self._rounded(output, update.mul_(term.scale).add_(weight))

    def _whole(self, output: Output) -> Piece:
        files, name = self._stored(output)
        weight = files.read(name)
        with self._alone:
            torch.set_num_threads(self._threads)
            try:
                if output.round_trip and self._nf4:
                    weight = as_trained_on(weight, output.round_trip, self._nf4)
                if output.low_rank:
                    weight = _add_low_rank(weight, output.low_rank, self._adapter)
                if output.bias:
                    key, scale = output.bias
                    weight = weight.float() + self._adapter.read(key).float() * scale
                reach = self._reach(output, weight)
                return weight.to(DTYPES[output.spec.dtype]).reshape(-1), reach
            finally:
                torch.set_num_threads(1)

    def _buffer(self, purpose: str, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Memory of this thread, the same each time: fresh pages cost more than what is computed in them."""
        buffers: dict[str, torch.Tensor] = self._own.__dict__
        if purpose not in buffers or buffers[purpose].numel() < count * dtype.itemsize:
            buffers[purpose] = torch.empty(max(PIECE, count) * dtype.itemsize, dtype=torch.uint8)
        return buffers[purpose][: count * dtype.itemsize].view(dtype)

    def _read(self, files: TensorFiles, name: str, first: int, count: int) -> torch.Tensor:
        values = self._buffer("stored", count, DTYPES[files.spec(name).dtype])
        files.read_into(name, first, values)
        return values

    def _widened(self, values: torch.Tensor) -> torch.Tensor:
        if values.dtype == torch.float32:
            return values
        return self._buffer("widened", len(values), torch.float32).copy_(values)

    def _rounded(self, output: Output, values: torch.Tensor) -> Piece:
        reach, dtype = self._reach(output, values), DTYPES[output.spec.dtype]
        if values.dtype == dtype:
            return values, reach
        return self._buffer("rounded", len(values), dtype).copy_(values), reach

    def _reach(self, output: Output, values: torch.Tensor) -> float:
        """The largest absolute value, once it is known to be one that the result can hold."""
        if not values.numel():
            return 0.0
        low, high = torch.aminmax(values)
        # aminmax gives NaN when any value is NaN; max() of Python would lose it
        reach = torch.stack([low.abs(), high.abs()]).max().item()
        if not reach < float("inf"):
            raise InvalidInput(self._blame(output))
        if output.spec.dtype == "F16" and reach > FLOAT16_LARGEST:
            raise InvalidInput(
                f"tensor {output.spec.name} reaches {reach:.6g}, above the largest float16 number "
                f"{FLOAT16_LARGEST:.0f}; merge to bfloat16 instead (merge.dtype: bfloat16)"
            )
        return reach

    def _blame(self, output: Output) -> str:
        term = output.low_rank
        factors = (term.a, term.b, term.magnitude) if term else ()
        keys = (output.replacement, *factors, output.bias[0] if output.bias else None)
        named = [(f"adapter tensor {key}", self._adapter, key) for key in keys if key]
        if not output.replacement:
            named.append((f"base tensor {output.source}", self._base, output.source))
        guilty = [words for words, files, key in named if not torch.isfinite(files.read(key)).all()]
        cause = (
            f"{guilty[0]} already holds such values: that file is damaged or its training diverged"
            if guilty
            else "base and adapter are finite, their sum is not: the adapter's training diverged"
        )
        return f"tensor {output.spec.name} would hold NaN or infinite values; {cause}"


def low_rank_update(term: LowRank, adapter: TensorFiles) -> torch.Tensor:
    """scale · B·A in float32, laid out as the weight is stored."""
    update = (adapter.read(term.b).float() @ adapter.read(term.a).float()).mul_(term.scale)
    return update.T if term.transposed else update


def _add_low_rank(weight: torch.Tensor, term: LowRank, adapter: TensorFiles) -> torch.Tensor:
    """W + scale · B·A in float32 (then DoRA's rescaling); the product is the only float32 copy."""
    merged = low_rank_update(term, adapter).add_(weight)
    if term.magnitude:
        inputs, column = (0, (1, -1)) if term.transposed else (1, (-1, 1))
        norm = torch.linalg.vector_norm(merged, dim=inputs)
        merged *= (adapter.read(term.magnitude).float() / norm).view(column)
    return merged


def as_trained_on(weight: torch.Tensor, kind: ModuleKind, nf4: Nf4Config) -> torch.Tensor:
    """The NF4 values that training saw; transformers quantizes a Conv1D's weight (in, out) as (out, in)."""
    from stages.backends.nf4 import nf4_round_trip

    return nf4_round_trip(weight.T, nf4).T if kind == "conv1d" else nf4_round_trip(weight, nf4)
