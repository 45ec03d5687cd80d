"""An event file of TensorBoard: records of protocol buffers, written without its package.

A record is its length (uint64), the masked CRC-32C of these 8 bytes, the data, and the data's masked CRC-32C,
all little-endian; the mask is that of TFRecord. The data is a message `Event`: 1 wall time (double), 2 step
(int64), 3 version of the file (string) or 5 `Summary`, whose 1 are `Value`s: 1 tag (string), 2 the number
(float).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path

VERSION = b"brain.Event:2"
_POLYNOMIAL = 0x82F63B78
"""Castagnoli's, reflected."""
_MASK = 0xA282EAD8
_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5
"""Wire types."""
_LARGEST = struct.unpack("<f", bytes.fromhex("ffff7f7f"))[0]
"""Of a 32-bit float."""


def _table() -> tuple[int, ...]:
    rows = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        rows.append(value)
    return tuple(rows)


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """CRC-32C of `data` (RFC 3720, appendix B.4)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


def record(data: bytes) -> bytes:
    """`data` framed as a record."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, _masked(length), data, _masked(data)))


def beginning(at: float) -> bytes:
    """The first record of a file; `at`: seconds since the epoch."""
    return record(_event(at, 0) + _field(3, VERSION))


def scalars(step: int, values: Mapping[str, float], at: float) -> bytes:
    """A record with these numbers under their tags."""
    summary = b"".join(_field(1, _value(tag, value)) for tag, value in values.items())
    return record(_event(at, step) + _field(5, summary))


class EventFile:
    """A new event file in `folder`, which is made. Raises OSError."""

    def __init__(self, folder: Path, at: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"events.out.tfevents.{at:.6f}.tuneline"
        self._file = self.path.open("wb")
        self._write(beginning(at))

    def scalars(self, step: int, values: Mapping[str, float], at: float) -> None:
        """Add these numbers; whoever looks on sees them at once."""
        self._write(scalars(step, values, at))

    def close(self) -> None:
        """Nothing more is added."""
        self._file.close()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()


def _masked(data: bytes) -> bytes:
    value = crc32c(data)
    turned = value >> 15 | value << 17 & 0xFFFFFFFF
    return struct.pack("<I", turned + _MASK & 0xFFFFFFFF)


def _event(at: float, step: int) -> bytes:
    return _key(1, _DOUBLE) + struct.pack("<d", at) + _key(2, _VARINT) + _varint(step)


def _value(tag: str, number: float) -> bytes:
    if abs(number) > _LARGEST:
        number = math.copysign(math.inf, number)
    return _field(1, tag.encode()) + _key(2, _FLOAT) + struct.pack("<f", number)


def _field(number: int, data: bytes) -> bytes:
    return _key(number, _BYTES) + _varint(len(data)) + data


def _key(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
