"""Read a GGUF file's description without trusting it: every count is checked against the file's size first.

The format's own reader believes the counts in the file; one of 43 bytes that announces 2⁶³ array elements
keeps it busy for ever. Here no announced count is followed that the remaining bytes could not hold.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from stages.errors import InvalidInput

Scalar = int | float | bool | str

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_SHORTEST_PAIR = 8 + 4 + 1
_SHORTEST_TENSOR = 8 + 4 + 4 + 8


@dataclass(frozen=True)
class GgufTensor:
    """`shape` in llama.cpp's order: the length of a row first. `nbytes` as stored, from byte `start` on."""

    name: str
    type: str
    shape: tuple[int, ...]
    nbytes: int
    start: int

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class GgufDescription:
    """`values`: scalar and text metadata; `lengths`: elements of each array, whose content is skipped.

    `texts`: content of the arrays that were asked for.
    """

    values: dict[str, Scalar]
    lengths: dict[str, int]
    tensors: tuple[GgufTensor, ...]
    file_bytes: int
    texts: dict[str, tuple[str, ...]]

    def types(self) -> dict[str, int]:
        """Tensor type → number of tensors."""
        return dict(sorted(Counter(tensor.type for tensor in self.tensors).items()))

    @property
    def parameters(self) -> int:
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def tensor_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)


def read_gguf(path: Path, keep: frozenset[str] = frozenset()) -> GgufDescription:
    """What a GGUF file says it holds; no weights are read. `keep`: arrays of texts whose content is wanted.

    Raises `InvalidInput` for a damaged file.
    """
    size = path.stat().st_size
    if size < 24:
        raise InvalidInput(
            f"{path.name}: {size} bytes is too short for a GGUF file; fetch or convert it again"
        )
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Cursor(path.name, data, size, keep).description()


class _Cursor:
    """A position in the mapped file that never moves past its end."""

    def __init__(self, name: str, data: mmap.mmap, size: int, keep: frozenset[str]) -> None:
        self.name, self.data, self.size, self.position = name, data, size, 0
        self.keep, self.texts = keep, dict[str, tuple[str, ...]]()

    def description(self) -> GgufDescription:
        magic, version, tensor_count, pair_count = self.unpack("4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            self.fail(
                f"expected a little-endian GGUF file of version 2 or 3, found {magic!r}, version {version}"
            )
        self.must_hold(pair_count, _SHORTEST_PAIR, "metadata entries")
        values: dict[str, Scalar] = {}
        lengths: dict[str, int] = {}
        for _ in range(pair_count):
            self.pair(values, lengths)
        self.must_hold(tensor_count, _SHORTEST_TENSOR, "tensors")
        tensors = [self.tensor() for _ in range(tensor_count)]
        start = self.check_data(tensors, values.get("general.alignment", 32))
        placed = tuple(replace(tensor, start=start + tensor.start) for tensor in tensors)
        return GgufDescription(values, lengths, placed, self.size, self.texts)

    def fail(self, reason: str) -> NoReturn:
        raise InvalidInput(f"{self.name}: {reason}; fetch or convert the file again")

    def must_hold(self, count: int, each: int, what: str) -> None:
        left = self.size - self.position
        if count * each > left:
            self.fail(f"announces {count} {what} at byte {self.position}, but only {left} bytes follow")

    def unpack(self, codes: str) -> tuple[Any, ...]:
        length = struct.calcsize("<" + codes)
        self.must_hold(length, 1, "bytes")
        values = struct.unpack_from("<" + codes, self.data, self.position)
        self.position += length
        return values

    def text(self) -> str:
        (length,) = self.unpack("Q")
        self.must_hold(length, 1, "bytes of text")
        start, self.position = self.position, self.position + length
        return self.data[start : self.position].decode("utf-8", "replace")

    def pair(self, values: dict[str, Scalar], lengths: dict[str, int]) -> None:
        key = self.text()
        if key in values or key in lengths:
            self.fail(f"duplicate metadata key {key!r}")
        (kind,) = self.unpack("I")
        if kind == _STRING:
            values[key] = self.text()
        elif kind == _ARRAY:
            lengths[key] = self.skip_array(key)
        elif kind in _SCALARS:
            (values[key],) = self.unpack(_SCALARS[kind])
        else:
            self.fail(f"metadata {key!r} has the unknown type {kind}")

    def skip_array(self, key: str) -> int:
        kind, count = self.unpack("IQ")
        if kind in _SCALARS:
            each = struct.calcsize(_SCALARS[kind])
            self.must_hold(count, each, f"elements of {key!r}")
            self.position += count * each
        elif kind == _STRING:
            self.must_hold(count, 8, f"texts of {key!r}")
            if key in self.keep:
                self.texts[key] = tuple(self.text() for _ in range(count))
                return int(count)
            for _ in range(count):
                (length,) = self.unpack("Q")
                self.must_hold(length, 1, "bytes of text")
                self.position += length
        else:
            self.fail(f"metadata {key!r} is an array of type {kind}; expected numbers or texts")
        return int(count)

    def tensor(self) -> GgufTensor:
        """A tensor; its `start` counts from the start of the data."""
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        name = self.text()
        (dimensions,) = self.unpack("I")
        if not 1 <= dimensions <= 4:
            self.fail(f"tensor {name!r} has {dimensions} dimensions; expected 1 to 4")
        *shape, kind, offset = self.unpack(f"{dimensions}QIQ")
        if kind not in {int(quantized) for quantized in GGML_QUANT_SIZES}:
            self.fail(f"tensor {name!r} has the unknown type {kind}")
        quantized = GGMLQuantizationType(kind)
        block, block_bytes = GGML_QUANT_SIZES[quantized]
        if shape[0] % block:
            self.fail(
                f"tensor {name!r}: rows of {shape[0]} are not a multiple of {quantized.name}'s block of "
                f"{block}"
            )
        return GgufTensor(name, quantized.name, tuple(shape), prod(shape) // block * block_bytes, offset)

    def check_data(self, tensors: list[GgufTensor], alignment: Scalar) -> int:
        """Where the data starts; every tensor lies in it, and none in another."""
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            self.fail(f"general.alignment is {alignment!r}; expected a power of two")
        start = -(-self.position // alignment) * alignment
        end, before, names = 0, "", set[str]()
        for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.nbytes)):
            if start + tensor.start + tensor.nbytes > self.size:
                self.fail(f"is cut short before the end of tensor {tensor.name!r}")
            if tensor.start < end:
                self.fail(f"tensor {tensor.name!r} overlaps tensor {before!r}")
            if tensor.name in names:
                self.fail(f"duplicate tensor {tensor.name!r}")
            end, before = tensor.start + tensor.nbytes, tensor.name
            names.add(tensor.name)
        return start
