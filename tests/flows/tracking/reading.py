"""Reads event files as TensorBoard does: records with their checksums, then messages field by field."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from flows.tracking.event_file import crc32c


class Event(NamedTuple):
    at: float
    step: int
    version: str | None
    scalars: dict[str, float]


def events(file: Path) -> list[Event]:
    """Every event of a file. AssertionError where a record is broken."""
    return [_event(data) for data in _records(file.read_bytes())]


def curves(file: Path) -> dict[str, dict[int, float]]:
    """Tag → step → number."""
    found: dict[str, dict[int, float]] = {}
    for event in events(file):
        for tag, value in event.scalars.items():
            found.setdefault(tag, {})[event.step] = value
    return found


def _records(raw: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(raw):
        head = raw[place : place + 8]
        (length,) = struct.unpack("<Q", head)
        data = raw[place + 12 : place + 12 + length]
        sums = raw[place + 8 : place + 12], raw[place + 12 + length : place + 16 + length]
        for part, found in zip((head, data), sums, strict=True):
            value = crc32c(part)
            masked = (((value >> 15) | (value << 17)) + 0xA282EAD8) % 2**32
            assert struct.unpack("<I", found) == (masked,)
        yield data
        place += 16 + length


def _event(data: bytes) -> Event:
    fields = dict(_fields(data))
    scalars = {}
    for number, value in _fields(fields.get(5, b"")):
        assert number == 1
        inner = dict(_fields(value))
        scalars[inner[1].decode()] = inner[2]
    version = fields[3].decode() if 3 in fields else None
    return Event(fields[1], fields.get(2, 0), version, scalars)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(data, place)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if size is None:
            size, place = _varint(data, place)
        part, place = data[place : place + size], place + size
        yield key >> 3, struct.unpack({1: "<d", 5: "<f"}[kind], part)[0] if kind in (1, 5) else part


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value, shift, place = value | (byte & 0x7F) << shift, shift + 7, place + 1
        if not byte & 0x80:
            return value, place
