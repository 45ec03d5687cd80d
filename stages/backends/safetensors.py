"""Read and write safetensors one tensor at a time, so that memory never holds a whole shard.

File format (https://github.com/huggingface/safetensors): 8 bytes little-endian header length, a JSON
header with dtype, shape and byte range of each tensor, then the bytes. The library maps a file into
memory, and touched pages count as resident; plain reads keep the peak at one tensor.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import FileIO
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from stages.errors import InvalidInput
from stages.formats.model_directory import read_header
from stages.formats.model_files import INDEX, weight_files

SINGLE = "model.safetensors"

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype code of the format (F16, BF16, …) and shape of one tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size in bytes; dtypes that only occur in quantized files count as one byte."""
        return self.elements * (DTYPES[self.dtype].itemsize if self.dtype in DTYPES else 1)


@dataclass(frozen=True)
class _Place:
    spec: TensorSpec
    file: Path
    start: int


class TensorFiles:
    """Tensors of one or several safetensors files, by name, in the files' own order."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._places: dict[str, _Place] = {}
        for file in files:
            for place in _places(file):
                if place.spec.name in self._places:
                    raise InvalidInput(
                        f"tensor {place.spec.name} is in {self._places[place.spec.name].file.name} and in "
                        f"{file.name}; one of them is stale: remove it or repair the index"
                    )
                self._places[place.spec.name] = place

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def spec(self, name: str) -> TensorSpec:
        return self._places[name].spec

    def specs(self) -> list[TensorSpec]:
        return [place.spec for place in self._places.values()]

    def read(self, name: str) -> torch.Tensor:
        """One tensor in its stored dtype and shape, in memory of its own."""
        place = self._places[name]
        if place.spec.dtype not in DTYPES:
            raise InvalidInput(
                f"tensor {name} in {place.file} has dtype {place.spec.dtype}; expected one of {set(DTYPES)}"
            )
        tensor = torch.empty(place.spec.shape, dtype=DTYPES[place.spec.dtype])
        self.read_into(name, 0, tensor)
        return tensor

    def read_into(self, name: str, first: int, target: torch.Tensor) -> None:
        """Fill `target`, contiguous, of the stored dtype, with the tensor's elements from number `first` on.

        Raises `InvalidInput` where the file ends too early.
        """
        place = self._places[name]
        view = memoryview(as_bytes(target))
        with place.file.open("rb", buffering=0) as stream:
            stream.seek(place.start + first * target.itemsize)
            while view:
                # one read call returns at most 2 GiB on Linux
                count = stream.readinto(view)
                if not count:
                    raise InvalidInput(
                        f"{place.file} ends inside tensor {name}; the file is cut: fetch it again"
                    )
                view = view[count:]


def model_files(directory: Path) -> TensorFiles:
    """The weights of the model in `directory`: the single file, or the shards that its index names.

    Shards that the index does not name are stale leftovers and are not read. Raises `InvalidInput` where
    there are no safetensors weights (pickled weights are never opened) or a shard is missing.
    """
    index = directory / INDEX
    if (directory / SINGLE).is_file() and index.is_file():
        raise InvalidInput(f"{directory} holds both {SINGLE} and {INDEX}; one is stale: remove it")
    tensors = TensorFiles(weight_files(directory))
    weight_map = json.loads(index.read_text())["weight_map"] if index.is_file() else {}
    if missing := sorted(set(weight_map) - set(tensors)):
        raise InvalidInput(f"{index} names tensor {missing[0]}, which is in no shard; fetch the model again")
    return tensors


@dataclass(frozen=True)
class FileLayout:
    """A safetensors file before its tensors are there; `specs` in the file's order."""

    name: str
    header: bytes
    specs: tuple[TensorSpec, ...]
    starts: dict[str, int]
    """Tensor name → the byte of the file where it begins."""

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + sum(spec.bytes for spec in self.specs)


def lay_out(specs: list[TensorSpec], shard_size: int) -> list[FileLayout]:
    """`model.safetensors`, or shards of at most `shard_size` bytes of tensors.

    A tensor larger than `shard_size` gets a shard to itself.
    """
    shards = _shards(specs, shard_size)
    if len(shards) == 1:
        return [_file_layout(SINGLE, shards[0])]
    return [
        _file_layout(f"model-{number:05d}-of-{len(shards):05d}.safetensors", shard)
        for number, shard in enumerate(shards, start=1)
    ]


def write_index(directory: Path, files: list[FileLayout]) -> None:
    """Write which of several `files` holds which tensor; nothing for a single one."""
    if len(files) == 1:
        return
    specs = [spec for file in files for spec in file.specs]
    total = {
        "total_size": sum(spec.bytes for spec in specs),
        "total_parameters": sum(spec.elements for spec in specs),
    }
    weight_map = {spec.name: file.name for file in files for spec in file.specs}
    index = {"metadata": total, "weight_map": dict(sorted(weight_map.items()))}
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def write_model(
    directory: Path, specs: list[TensorSpec], shard_size: int, produce: Callable[[str], torch.Tensor]
) -> list[str]:
    """Write `specs` as `model.safetensors`, or as shards of at most `shard_size` bytes and their index.

    `produce(name)` is called once per tensor and must return the dtype and shape of its spec. Returns the
    file names. The index comes last.
    """
    files = lay_out(specs, shard_size)
    for file in files:
        _write_in_order(directory / file.name, file, produce)
    write_index(directory, files)
    return [file.name for file in files]


def write_file(path: Path, specs: list[TensorSpec], produce: Callable[[str], torch.Tensor]) -> None:
    """Write one safetensors file; the header is known beforehand, the bytes follow one tensor at a time."""
    _write_in_order(path, _file_layout(path.name, specs), produce)


def _file_layout(name: str, specs: list[TensorSpec]) -> FileLayout:
    # wide types first, as the library does: every tensor then starts at a multiple of its item size
    ordered = sorted(specs, key=lambda spec: -DTYPES[spec.dtype].itemsize)
    described: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offsets: dict[str, int] = {}
    offset = 0
    for spec in ordered:
        offsets[spec.name] = offset
        described[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + spec.bytes],
        }
        offset += spec.bytes
    encoded = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    header = len(encoded).to_bytes(8, "little") + encoded
    starts = {tensor: len(header) + offset for tensor, offset in offsets.items()}
    return FileLayout(name, header, tuple(ordered), starts)


def _write_in_order(path: Path, file: FileLayout, produce: Callable[[str], torch.Tensor]) -> None:
    with path.open("wb", buffering=0) as stream:
        write_all(stream, file.header)
        for spec in file.specs:
            tensor = produce(spec.name).contiguous()
            if (CODES.get(tensor.dtype), tuple(tensor.shape)) != (spec.dtype, spec.shape):
                raise ValueError(
                    f"{spec.name}: announced {spec.dtype} {spec.shape}, got {tensor.dtype} {tensor.shape}"
                )
            write_all(stream, as_bytes(tensor))


def write_all(stream: FileIO, data: Any) -> None:
    """Write all of `data`, anything with a buffer of bytes; one call writes at most 2 GiB on Linux."""
    view = memoryview(data)
    while view:
        view = view[stream.write(view) or 0 :]


def as_bytes(tensor: torch.Tensor) -> Any:
    """The tensor's memory as a flat uint8 array (numpy knows no bfloat16)."""
    return tensor.reshape(-1).view(torch.uint8).numpy()


def _shards(specs: list[TensorSpec], shard_size: int) -> list[list[TensorSpec]]:
    shards: list[list[TensorSpec]] = [[]]
    filled = 0
    for spec in specs:
        if shards[-1] and filled + spec.bytes > shard_size:
            shards.append([])
            filled = 0
        shards[-1].append(spec)
        filled += spec.bytes
    return shards


def _places(file: Path) -> Iterator[_Place]:
    """Where each tensor of `file` lies; the library checks the header (ranges, overlaps) first."""
    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise InvalidInput(
            f"{file} is not a readable safetensors file ({error}); fetch or write it again"
        ) from error
    for name, header in sorted(read_header(file).items(), key=lambda item: item[1].start):
        yield _Place(TensorSpec(name, header.dtype, header.shape), file, header.start)
