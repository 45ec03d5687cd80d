from __future__ import annotations

import unicodedata
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.names import check_file_names


@pytest.mark.parametrize(
    "name",
    [
        "", "/etc/passwd", "../up", "a/../b", "a//b", "a/", "./a", "a\\b", "nul\0", "line\nbreak", "bell\x07",
        "right-to-left\u202eexe", "zero\u200bwidth",
        "undecodable\udcff", "x" * 256, "d/" * 600 + "x", "x" * 4096,
        "NUL", "nul.txt", "d/con", "Aux .x", "com1", "LPT9.bin", "a:b", "a?", "a*", "<a>",
        'a"b', "a|b", "a.", "a /b",
    ],
)  # fmt: skip
def test_unsafe_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="file name"):
        check_file_names([name])


@pytest.mark.parametrize(
    "names",
    [
        ("Model.json", "model.json"),
        ("caf\u00e9", "cafe\u0301"),
        ("A/x", "a/y"),
        ("a", "a/b"),
        ("stra\u00dfe", "STRASSE"),
        ("\ufb01le", "file"),
    ],
)
def test_names_that_some_file_system_confuses_are_refused(names: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="collide"):
        check_file_names(names)


def test_ordinary_names_pass() -> None:
    check_file_names(
        ["config.json", "model-00001-of-00002.safetensors", "a/b/c d.txt", "a/b/e", "größe.txt", "..x"]
    )


@given(st.lists(st.text(max_size=12), max_size=4, unique=True))
def test_what_passes_stays_inside_and_distinct(names: list[str]) -> None:
    try:
        check_file_names(names)
    except ValueError:
        return
    root = Path("/root/of/artifact")
    for name in names:
        path = PurePosixPath(root) / name
        assert path.is_relative_to(root)
        assert ".." not in path.parts
        assert path.relative_to(root).as_posix() == name
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == len(names)
