"""Text files as UTF-8 lines, or a message that says where they are not."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from stages.data.source_row import MAX_ROW_BYTES
from stages.errors import InvalidInput


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked where it ends in .gz.

    Raises `InvalidInput` when it cannot be opened or the archive is damaged.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            yield cast(BinaryIO, stream)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InvalidInput(
            f"{path}: the gzip archive is damaged ({error}); download or compress it again"
        ) from error
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror or error})") from error


def lines(path: Path) -> Iterator[str]:
    """Decoded lines with their line ends (\\n, \\r\\n or \\r), without a byte order mark.

    Raises `InvalidInput` at bytes that are not UTF-8 (with line, byte and how to convert), and at a line
    above `MAX_ROW_BYTES` characters.
    """
    with text(path, newline="") as stream:
        for number, line in enumerate(iter(lambda: stream.readline(MAX_ROW_BYTES + 1), ""), 1):
            if len(line) > MAX_ROW_BYTES:
                raise InvalidInput(
                    f"{path.name}: line {number} exceeds {MAX_ROW_BYTES >> 20} MiB; is the file damaged?"
                )
            yield line


@contextmanager
def text(path: Path, newline: str | None = "\n") -> Iterator[io.TextIOWrapper]:
    """The file as a UTF-8 text stream; `newline` as for `open`. Raises `InvalidInput` like `lines`."""
    with opened(path) as stream:
        try:
            yield io.TextIOWrapper(stream, encoding="utf-8-sig", newline=newline)
        except UnicodeDecodeError as error:
            raise _not_utf8(path) from error


def _not_utf8(path: Path) -> InvalidInput:
    """Reads the file once more: a text stream decodes ahead and does not know its place."""
    with opened(path) as stream:
        for number, raw in enumerate(iter(lambda: stream.readline(MAX_ROW_BYTES), b""), 1):
            try:
                raw.decode()
            except UnicodeDecodeError as error:
                utf16 = number == 1 and raw[:2] in (b"\xff\xfe", b"\xfe\xff")
                guess = "UTF-16" if utf16 else "WINDOWS-1252"
                convert = f"iconv -f {guess} -t UTF-8 {path.name} > utf8-{path.name}"
                return InvalidInput(
                    f"{path.name}: line {number}, byte {error.start + 1} of the line "
                    f"(0x{raw[error.start]:02x}) is not UTF-8; convert the file, for example: {convert}"
                )
    return InvalidInput(f"{path.name}: the text is not UTF-8, or changes while it is read")
