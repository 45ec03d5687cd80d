"""How large the parts of an upload are, and what S3 calls content that came in such parts."""

from __future__ import annotations

import hashlib
from pathlib import Path

PART = 8 * 2**20
"""Bytes of one part of an upload or download; larger only for what would need more than 10,000 parts."""


def part_size(size: int) -> int:
    """Bytes of each part but the last of a file of `size` bytes."""
    return max(PART, -(-size // 10_000))


def s3_etag(path: Path, size: int) -> str:
    """The ETag of the file's content: its MD5, or the MD5 of the MD5s of its parts, and how many they are."""
    part, digests = part_size(size), []
    with path.open("rb") as stream:
        if size < 2 * part:  # s3fs sends it in one piece
            return hashlib.file_digest(stream, _md5).hexdigest()
        while piece := stream.read(part):
            digests.append(_md5(piece).digest())
    return f"{_md5(b''.join(digests)).hexdigest()}-{len(digests)}"


def _md5(content: bytes = b"") -> hashlib._Hash:
    return hashlib.md5(content, usedforsecurity=False)
