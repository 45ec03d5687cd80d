"""A model as transformers saves it: its configuration and the headers of its weights, each read once."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stages.errors import InvalidInput
from stages.formats.model_files import weight_files

ModelConfig = dict[str, Any]
"""`config.json`: any JSON object, whose keys are the family's own."""


@dataclass(frozen=True)
class TensorHeader:
    """A tensor as its safetensors header describes it; `start`: the byte of the file where it begins."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    start: int = 0

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


class ModelDirectory:
    """A Hugging Face directory, whose files stay as they are while it is in use."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def config(self) -> ModelConfig:
        """`config.json`. Raises `InvalidInput` where there is none."""
        file = self.path / "config.json"
        if not file.is_file():
            raise InvalidInput(f"{self.path} holds no config.json; expected a Hugging Face model directory")
        config: ModelConfig = json.loads(file.read_text("utf-8"))
        return config

    @cached_property
    def headers(self) -> dict[str, TensorHeader]:
        """Name → dtype, shape and size of every tensor. Raises `InvalidInput` as `weight_files` does."""
        files = weight_files(self.path)
        return {name: header for file in files for name, header in read_header(file).items()}

    @property
    def shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Name → dtype and shape of every tensor."""
        return {name: (header.dtype, header.shape) for name, header in self.headers.items()}

    @property
    def parameters(self) -> int:
        return sum(header.numel for header in self.headers.values())

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return sum(header.nbytes for header in self.headers.values())

    @property
    def dtypes(self) -> list[str]:
        return sorted({header.dtype for header in self.headers.values()})


def read_header(file: Path) -> dict[str, TensorHeader]:
    """Name → header of every tensor in a safetensors file. Raises `InvalidInput` for a file that is cut.

    Format: 8 bytes little-endian length, then JSON (huggingface/safetensors, "Format").
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little") if len(start) == 8 else size
        if length + 8 > size:
            raise InvalidInput(
                f"{file.name} is not a complete safetensors file (size {size} bytes); fetch it again"
            )
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        if 8 + length + last > size:
            raise InvalidInput(f"{file.name} is cut short before the tensor {name!r}; fetch it again")
        tensors[name] = TensorHeader(entry["dtype"], tuple(entry["shape"]), last - first, 8 + length + first)
    return tensors
