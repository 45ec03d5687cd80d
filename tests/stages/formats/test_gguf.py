"""GGUF files from outside: what is damaged or hostile is refused at once, in words."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.errors import InvalidInput
from stages.formats.gguf import read_gguf
from tests.seconds import seconds


def _gguf(pairs: bytes, pair_count: int, tensor_count: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensor_count, pair_count) + pairs


HOSTILE = {
    "43-bytes": _gguf(struct.pack("<Q", 3) + b"abc" + struct.pack("<IIQ", 9, 0, 2**63)[:8], 1),
    "array": _gguf(struct.pack("<Q1sIIQ", 1, b"a", 9, 4, 2**63), 1),
    "texts": _gguf(struct.pack("<Q1sIIQ", 1, b"a", 9, 8, 2**60), 1),
    "nested": _gguf(struct.pack("<Q1sIIQ", 1, b"a", 9, 9, 1), 1),
    "pairs": _gguf(b"", 2**64 - 1),
    "tensors": _gguf(b"", 0, 2**64 - 1),
    "key": _gguf(struct.pack("<Q", 2**62) + b"abcdefgh", 1),
    "magic": b"GGML" + bytes(40),
    "short": b"GGUF",
    "dimensions": _gguf(struct.pack("<Q1sI", 1, b"t", 9) + bytes(40), 0, 1),
    "data": _gguf(struct.pack("<Q1sIQIQ", 1, b"t", 1, 2**40, 0, 0) + bytes(40), 0, 1),
}


@pytest.mark.timeout(seconds(10))
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_gguf_is_refused_at_once(name: str, tmp_path: Path) -> None:
    file = tmp_path / "hostile.gguf"
    file.write_bytes(HOSTILE[name])
    with pytest.raises(InvalidInput, match=r"hostile\.gguf"):
        read_gguf(file)


@settings(deadline=seconds(2000), max_examples=60)
@given(st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_damaged_gguf_never_gets_through_as_another_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, patch: bytes
) -> None:
    whole = bytearray(
        _gguf(
            struct.pack("<Q4sIQ5s", 4, b"name", 8, 5, b"hello")
            + struct.pack("<Q4sIIQ", 4, b"list", 9, 4, 3)
            + struct.pack("<3I", 1, 2, 3),
            2,
            1,
        )
        + struct.pack("<Q1sIQIQ", 1, b"t", 1, 8, 0, 0)
        + bytes(120)
    )
    whole[at : at + len(patch)] = patch
    file = tmp_path_factory.mktemp("fuzz") / "f.gguf"
    file.write_bytes(whole)
    try:
        description = read_gguf(file)
    except InvalidInput:
        return
    assert description.tensor_bytes <= len(whole)
