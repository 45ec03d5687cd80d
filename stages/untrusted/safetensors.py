"""Untrusted safetensors files: every byte of the layout is accounted for, every number is finite.

Format: https://github.com/huggingface/safetensors, "Format". The library checks most of the same rules; it is
not asked, since it maps the file and says less of what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

from stages.errors import InvalidInput
from stages.untrusted.json import parse_object

LARGEST_HEADER = 32_000_000
"""Bytes; a header of 200,000 tensors has about 25 MB."""
CHUNK = 1 << 24

WIDTHS = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
_NOT_FINITE = {  # dtype → numpy type of its bits, mask, and what the masked bits are in NaN and infinity
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),
}
_MAGIC = {
    b"PK\x03\x04": "a zip archive, as torch.save writes it (pickled, can run code)",
    b"\x80\x02": "a pickle, which can run code when opened",
    b"\x80\x04": "a pickle, which can run code when opened",
    b"\x80\x05": "a pickle, which can run code when opened",
    b"\x1f\x8b": "a gzip archive",
    b"GGUF": "a GGUF file",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself",
}


@dataclass(frozen=True)
class UntrustedTensor:
    """A tensor as its header describes it; `start` and `end` are bytes of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


Located = dict[str, tuple[str, UntrustedTensor]]
"""Tensor name → (file name, tensor)."""


def read_layout(file: Path) -> dict[str, UntrustedTensor]:
    """Name → tensor. Raises `InvalidInput` for a layout with anything but one tensor after the other."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        stream.seek(0)
        _refuse_other_formats(file.name, stream.read(32))
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise InvalidInput(
                f"{file.name} announces a header of {length} bytes and has {size} bytes in all; it is not a "
                "complete safetensors file: fetch it again"
            )
        if length > LARGEST_HEADER:
            raise InvalidInput(
                f"{file.name} has a header of {length} bytes, expected at most {LARGEST_HEADER}"
            )
        stream.seek(8)
        header = parse_object(stream.read(length), f"the header of {file.name}")
    _check_metadata(file.name, header.pop("__metadata__", {}))
    tensors = {name: _tensor(file.name, name, entry, 8 + length) for name, entry in header.items()}
    _check_order(file.name, tensors, 8 + length, size)
    return tensors


def require_finite(file: Path, tensors: dict[str, UntrustedTensor]) -> None:
    """Raise `InvalidInput` naming the first tensor that holds NaN or infinity. Reads every float once."""
    import numpy as np

    with file.open("rb", buffering=0) as stream:
        for name, tensor in tensors.items():
            if tensor.dtype not in _NOT_FINITE:
                continue
            code, mask = _NOT_FINITE[tensor.dtype]
            bits = np.dtype(code)
            stream.seek(tensor.start)
            left = tensor.end - tensor.start
            while left:
                chunk = _read(stream, min(left, CHUNK), file.name)
                left -= len(chunk)
                if bool(((np.frombuffer(chunk, bits) & bits.type(mask)) == mask).any()):
                    raise InvalidInput(
                        f"tensor {name} in {file.name} holds NaN or infinite values; its training diverged "
                        "or the file is damaged: use an earlier checkpoint, or fetch it again"
                    )


def together(files: Iterable[Path], weight_map: Mapping[str, str] | None) -> Located:
    """The tensors of the shards of a model, which must be what its index says."""
    located: Located = {}
    for file in files:
        for name, tensor in read_layout(file).items():
            if name in located:
                raise InvalidInput(
                    f"tensor {name} is in {located[name][0]} and in {file.name}; one is stale: remove it"
                )
            located[name] = (file.name, tensor)
    for name, where in (weight_map or {}).items():
        if name not in located or located[name][0] != where:
            raise InvalidInput(
                f"the index puts the tensor {name[:80]!r} into {str(where)[:80]!r}, where it is not; "
                "fetch the model again"
            )
    return located


def _refuse_other_formats(name: str, beginning: bytes) -> None:
    for magic, words in _MAGIC.items():
        if beginning.startswith(magic):
            raise InvalidInput(
                f"{name} is {words}; expected a safetensors file: save it with save_pretrained() in a place "
                "you trust"
            )


def _check_metadata(name: str, metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InvalidInput(f"{name}: __metadata__ is not a table of texts; the file is damaged")


def _tensor(file: str, name: str, entry: Any, data: int) -> UntrustedTensor:
    keys = {"dtype", "shape", "data_offsets"}
    if not isinstance(entry, dict) or set(entry) != keys:
        raise InvalidInput(
            f"{file}: tensor {name[:80]!r} is described by {entry!r:.120}, expected {sorted(keys)}"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        raise InvalidInput(
            f"{file}: tensor {name[:80]!r} has dtype {dtype!r:.40}, expected one of {', '.join(WIDTHS)}"
        )
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2 or len(shape) > 8:
        raise InvalidInput(
            f"{file}: tensor {name[:80]!r} has shape {shape!r:.80} and offsets {offsets!r:.80}; "
            "expected whole numbers that are not negative"
        )
    start, end = offsets
    if end - start != (needed := prod(shape) * WIDTHS[dtype]):
        raise InvalidInput(
            f"{file}: tensor {name[:80]!r} is {dtype} {shape!r:.80}, which takes {needed} bytes, "
            f"but its offsets hold {end - start}; the file is damaged"
        )
    return UntrustedTensor(dtype, tuple(shape), data + start, data + end)


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 62 for value in values)


def _check_order(file: str, tensors: dict[str, UntrustedTensor], data: int, size: int) -> None:
    at, before = data, "the header"
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start != at:
            what = "overlaps" if tensor.start < at else f"leaves a hole of {tensor.start - at} bytes after"
            raise InvalidInput(
                f"{file}: tensor {name[:80]!r} {what} {before[:80]}; the file is damaged or hostile"
            )
        at, before = tensor.end, f"tensor {name!r}"
    if at != size:
        problem = "is cut short" if at > size else "has bytes that belong to no tensor"
        raise InvalidInput(f"{file} {problem}: its tensors end at byte {at} of {size}; fetch it again")


def _read(stream: IO[bytes], count: int, name: str) -> bytes:
    parts = []
    while count:
        part = stream.read(count)
        if not part:
            raise InvalidInput(f"{name} became shorter while it was read; leave it alone and try again")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
