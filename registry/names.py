"""Which file names an artifact may hold: distinct on every file system, never outside its directory."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

LONGEST_NAME = 1024
LONGEST_PART = 255
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_NOT_ON_WINDOWS = re.compile(r'[<>:"|?*]')
_WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])( *\..*)?", re.IGNORECASE)


def check_file_names(names: Iterable[str]) -> None:
    """Raise ValueError for a name that is unsafe, or that some file system would take for another one.

    Names are relative POSIX paths. Refused: absolute paths, empty, `.` and `..` parts, backslashes, control
    and invisible characters, bytes that are not UTF-8, parts over 255 and names over 1024 bytes, what Windows
    does not take (devices such as NUL, the characters <>:"|?*, a dot or space at the end of a part), and
    two names that are equal once case and Unicode normalization (NFKC) are ignored, directories included.
    """
    seen: dict[str, tuple[str, bool]] = {}
    for name in names:
        _check_one(name)
        parts = name.split("/")
        for depth in range(1, len(parts) + 1):
            prefix, is_file = "/".join(parts[:depth]), depth == len(parts)
            first = seen.setdefault(_folded(prefix), (prefix, is_file))
            if first[0] != prefix or (first[1] != is_file):
                raise ValueError(
                    f"file names {first[0]!r} and {prefix!r} collide where case or Unicode form is ignored; "
                    "rename one of them"
                )


def _check_one(name: str) -> None:
    def refuse(reason: str) -> None:
        raise ValueError(
            f"file name {name[:80]!r} {reason}; expected a plain relative path such as model/a.json"
        )

    if any(unicodedata.category(character) in _INVISIBLE for character in name):
        refuse("holds a control, invisible or undecodable character")
    if len(name.encode()) > LONGEST_NAME:
        refuse(f"is longer than {LONGEST_NAME} bytes")
    if "\\" in name:
        refuse("holds a backslash")
    if name.startswith("/"):
        refuse("is absolute")
    parts = name.split("/")
    if any(part in {"", ".", ".."} for part in parts):
        refuse("has an empty, '.' or '..' part")
    if any(len(part.encode()) > LONGEST_PART for part in parts):
        refuse(f"has a part longer than {LONGEST_PART} bytes")
    if _NOT_ON_WINDOWS.search(name) or any(
        part.endswith((".", " ")) or _WINDOWS_DEVICE.fullmatch(part) for part in parts
    ):
        refuse("is not a valid file name on Windows")


def _folded(name: str) -> str:
    folded = unicodedata.normalize("NFKC", name).casefold()
    return unicodedata.normalize("NFKC", folded)
