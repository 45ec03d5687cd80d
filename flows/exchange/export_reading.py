"""The documents of an exported directory, read as what they are: somebody else's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LARGEST_DOCUMENT = 64_000_000
"""Bytes. The documents beside the artifact's files are read whole, and may come from anybody."""


class Broken(Exception):
    """A document that cannot be used; the message says why."""


def read(directory: Path, name: str) -> bytes:
    """The bytes of a document. Raises `Broken`."""
    path = directory / name
    if path.is_symlink() or not path.is_file():
        raise Broken(f"{name}: missing")
    if path.stat().st_size > LARGEST_DOCUMENT:
        raise Broken(f"{name}: is larger than such a document can be")
    try:
        return path.read_bytes()
    except OSError as error:
        raise Broken(f"{name}: cannot be read ({error.strerror})") from None


def read_json(directory: Path, name: str) -> Any:
    """A document as JSON values. Raises `Broken`."""
    return parsed(name, read(directory, name))


def parsed(name: str, raw: bytes) -> Any:
    """`raw` as JSON values; `name` is for the message. Raises `Broken`."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Broken(f"{name}: is not valid JSON ({brief(error)})") from None


def brief(error: Exception) -> str:
    """The beginning of an error's message, in one line."""
    return " ".join(str(error).split())[:120]
